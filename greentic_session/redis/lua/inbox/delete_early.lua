-- Keep an event no longer.
--
-- KEYS, ARGV 1-2, why atomic: see lib/early_event.
-- ARGV  3 key      of the session that it is for
--       4 event    as inbox/assign_early tells it
-- Returns {1}.

--@include lib/early_event

local at, _, rest = opened(ARGV[4])
redis.call('LREM', KEYS[1], '1', assigned(at, ARGV[3], rest))
return {1}
