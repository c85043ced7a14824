-- End a session's wait under a reply scope, if the wait was registered at exactly `expected_since`. A claim on the
-- record stays held.
--
-- KEYS  1 record   HASH  see lib/record
--       2 lookup   HASH  see lib/record
--       3 events   ZSET  see lib/wait_state
-- ARGV 1-3: see lib/record.
-- ARGV  4 scope_hash      reply scope, as a hash
--       5 expected_since  us since the epoch
-- Returns {verdict}.
-- Verdicts: 1 done   0 no such wait
-- A repeated call finds no such wait.
-- Why atomic: a script runs alone. It decides first and writes last, because nothing rolls back.

local scope_hash, expected_since = ARGV[4], ARGV[5]
local LOG_FIELD = 'ops'

--@include lib/record
--@include lib/operation_log
--@include lib/event_set
--@include lib/wait_state

if not live or waits_on ~= scope_hash or since ~= expected_since then return {0} end
redis.call('HDEL', KEYS[1], 'wait', 'since')
return {1}
