-- Assign a page of the stored events to a session, except events that are assigned to another session.
--
-- KEYS  1 early    LIST  see lib/early_event
--       2 heads    ZSET  see lib/early_event
--       3 headers  HASH  see lib/early_event
-- ARGV 1-2: see lib/early_event.
-- ARGV  3 key           key of the session
--       4 retention_ms  ms for which events are stored
--       5 gone_key      key of a session that is gone, '' for none. Its events are reassigned
--       6 position      position of the first event of the page in the list, from 0
-- Returns {1, position of the next event or '', key, event, headers or '', key, event, ...}. The events are in order,
-- and do not contain the keys.
-- Verdicts: 1 done
-- A repeated call is idempotent.
-- Why atomic: a script runs alone.

local key, retention_ms, gone_key, position = ARGV[3], ARGV[4], ARGV[5], ARGV[6]

--@include lib/early_event

local PAGE = 16
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('ZCARD', KEYS[2])  -- fails before the first write if the key holds another type of value
local has_headers = redis.call('HLEN', KEYS[3]) > 0
local events = redis.call('LRANGE', KEYS[1], position, (position + PAGE - 1) .. '')
local reply = {1, #events == PAGE and (position + PAGE) .. '' or ''}
for i, event in ipairs(events) do
  local at, assigned_key, rest = parse_event(event)
  if now < at + retention_ms then
    if not assigned_key or assigned_key == gone_key then
      assigned_key = key
      redis.call('LSET', KEYS[1], (position + i - 1) .. '', assigned_event(at, assigned_key, rest))
    end
    reply[#reply + 1] = assigned_key
    reply[#reply + 1] = at .. rest
    reply[#reply + 1] = has_headers and redis.call('HGET', KEYS[3], head_of(rest)) or ''
  end
end
return reply
