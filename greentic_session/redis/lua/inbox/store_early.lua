-- Store an event until a session waits for it.
--
-- KEYS  1 early    LIST  see lib/early_event
--       2 heads    ZSET  see lib/early_event
--       3 headers  HASH  see lib/early_event
-- ARGV 1-2: see lib/early_event.
-- ARGV  3 event_head    `length:owner length:id` of the event, without the blank
--       4 payload       opaque bytes
--       5 limit         maximum number of stored events
--       6 retention_ms  ms for which events are stored
--       7 headers       headers of the event, '' for none
-- Returns {verdict}.
-- Verdicts: 1 done   -7 the event is stored already   -9 full
-- A repeated call may return -7, because its earlier attempt has stored the event.
-- Why atomic: a script runs alone.

local event_head, payload, limit, retention_ms, headers = ARGV[3], ARGV[4], ARGV[5], ARGV[6], ARGV[7]

--@include lib/early_event

local EXPIRED = 8  -- limit on the expired events that a call removes. A call adds at most one
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local size = redis.call('LLEN', KEYS[1])
if redis.call('ZCARD', KEYS[2]) ~= size then
  -- A worker of an earlier release has changed the list. This is the only case that reads all events.
  redis.call('DEL', KEYS[2])
  for _, event in ipairs(redis.call('LRANGE', KEYS[1], '0', '-1')) do
    local at, _, rest = parse_event(event)
    redis.call('ZADD', KEYS[2], at, head_of(rest))
  end
  local left = redis.call('PTTL', KEYS[1])
  if left > 0 then redis.call('PEXPIRE', KEYS[2], left .. '') end
end
local stored_at = redis.call('ZSCORE', KEYS[2], event_head)
if stored_at and now < stored_at + retention_ms then return {-7} end
-- Events are removed at the head of the list only. If the clock was set back, expired ones may follow others.
local expired_heads = {}
for i = 0, math.min(size, EXPIRED) - 1 do
  local at, _, rest = parse_event(redis.call('LINDEX', KEYS[1], i .. ''))
  if now < at + retention_ms then break end
  expired_heads[i + 1] = head_of(rest)
end
if size - #expired_heads >= tonumber(limit) then return {-9} end
redis.call('HLEN', KEYS[3])  -- fails before the first write if the key holds another type of value
redis.call('RPUSH', KEYS[1], string.format('%.0f', now) .. ':' .. event_head .. payload)
if #expired_heads > 0 then
  redis.call('LTRIM', KEYS[1], #expired_heads .. '', '-1')
  redis.call('ZREM', KEYS[2], unpack(expired_heads))
  redis.call('HDEL', KEYS[3], unpack(expired_heads))
end
redis.call('ZADD', KEYS[2], string.format('%.0f', now), event_head)
redis.call('PEXPIREAT', KEYS[1], string.format('%.0f', now + retention_ms - 1))
redis.call('PEXPIREAT', KEYS[2], string.format('%.0f', now + retention_ms - 1))
if headers ~= '' then
  redis.call('HSET', KEYS[3], event_head, headers)
  redis.call('PEXPIREAT', KEYS[3], string.format('%.0f', now + retention_ms - 1))
end
return {1}
