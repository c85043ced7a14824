-- Assign the stored events to a session, except those that are assigned to another one.
--
-- KEYS  1 early    LIST  see lib/early_event
-- ARGV 1-2: see lib/early_event.
-- ARGV  3 key           of the session
--       4 retention_ms  ms to store events
--       5 gone_key      key of a session that is gone: its events are reassigned, '' for none
-- Returns {1, key, event, key, event, ...} in order, the events without the keys.
-- Verdicts: 1 done
-- A repeated call is idempotent.
-- Why atomic: a script runs alone.

local key, retention_ms, gone_key = ARGV[3], ARGV[4], ARGV[5]

--@include lib/early_event

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local reply = {1}
for i, event in ipairs(redis.call('LRANGE', KEYS[1], '0', '-1')) do
  local at, assigned_key, rest = parse_event(event)
  if now < at + retention_ms then
    if not assigned_key or assigned_key == gone_key then
      assigned_key = key
      redis.call('LSET', KEYS[1], tostring(i - 1), assigned_event(at, assigned_key, rest))
    end
    reply[#reply + 1] = assigned_key
    reply[#reply + 1] = at .. rest
  end
end
return reply
