-- Store an event for a session that will wait for it.
--
-- KEYS  1 early    LIST  see lib/early_event
-- ARGV 1-2: see lib/early_event.
-- ARGV  3 event_head    `length:owner length:id` of the event, without the blank
--       4 payload       opaque bytes
--       5 limit         how many events may be stored
--       6 retention_ms  ms to store them
-- Returns {verdict}.
-- Verdicts: 1 done   -7 the event is stored already   -9 full
-- A repeated call may return -7, because its earlier attempt has stored the event.
-- Why atomic: a script runs alone.

local event_head, payload, limit, retention_ms = ARGV[3], ARGV[4], ARGV[5], ARGV[6]

--@include lib/early_event

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local stored_events, expired_count = redis.call('LRANGE', KEYS[1], '0', '-1'), 0
for i, event in ipairs(stored_events) do
  local at, _, rest = parse_event(event)
  if now >= at + retention_ms then
    -- Only the head of the list: if the clock was set back, an expired event may follow one that is not.
    if expired_count == i - 1 then expired_count = i end
  elseif string.sub(rest, 2, 1 + #event_head) == event_head then
    return {-7}
  end
end
if #stored_events - expired_count >= tonumber(limit) then return {-9} end
redis.call('RPUSH', KEYS[1], string.format('%.0f', now) .. ':' .. event_head .. payload)
if expired_count > 0 then redis.call('LTRIM', KEYS[1], expired_count .. '', '-1') end
redis.call('PEXPIREAT', KEYS[1], string.format('%.0f', now + retention_ms - 1))
return {1}
