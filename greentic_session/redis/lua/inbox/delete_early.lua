-- Delete a stored event that is assigned to a session.
--
-- KEYS  1 early    LIST  see lib/early_event
--       2 heads    ZSET  see lib/early_event
--       3 headers  HASH  see lib/early_event
-- ARGV 1-2: see lib/early_event.
-- ARGV  3 key    key of the session
--       4 event  the event as inbox/assign_early returns it
-- Returns {1}.
-- Verdicts: 1 done
-- A repeated call is idempotent.
-- Why atomic: a script runs alone.

local key, event = ARGV[3], ARGV[4]

--@include lib/early_event

local at, _, rest = parse_event(event)
redis.call('ZCARD', KEYS[2])  -- fails before the first write if the key holds another type of value
-- LREM stops at the first match. It is near the start of the list, unless the mailbox of another session is full.
if redis.call('LREM', KEYS[1], '1', assigned_event(at, key, rest)) > 0 then
  redis.call('ZREM', KEYS[2], head_of(rest))
  redis.pcall('HDEL', KEYS[3], head_of(rest))
end
return {1}
