-- Let a session wait no longer under a reply scope, if it waits there since exactly then. A claim on
-- it stays held.
--
-- KEYS, ARGV 1-3, why atomic: see lib/record and lib/wait_state.
-- ARGV  4 scope   reply scope, as a hash
--       5 since   us
-- Verdicts: 1 done   0 it did not. A repeated call finds nothing to do.

local RING = 'ops'

--@include lib/record
--@include lib/operation_log
--@include lib/event_set
--@include lib/wait_state

if not live or waits_on ~= ARGV[4] or since ~= ARGV[5] then return {0} end
redis.call('HDEL', KEYS[1], 'wait', 'since')
return {1}
