-- Remove a record whose session waits under a reply scope, and everything that hangs on it.
--
-- KEYS, ARGV 1-3, returns, why atomic: see lib/record and lib/wait_state.
-- ARGV  4 owner   team/user
--       5 scope   reply scope, as a hash
--       6 keep    ms to keep the ring: see lib/delete_record
-- Verdicts: 1 done   0 absent   -5 unknown

local RING = 'ops'

--@include lib/record
--@include lib/operation_log
--@include lib/event_set
--@include lib/wait_state

local mark, done_at = recall(ops)
if mark then return {1, '0', '', done_at} end
if overrun(ops, time) then return {-5} end
if not live or owner ~= ARGV[4] or waits_on ~= ARGV[5] then return {0} end
call('HLEN', KEYS[2])  -- should another type stand there, or under the next name, fail here
call('ZCARD', KEYS[3])
call('DEL', KEYS[3])
keep = ARGV[6]
reply = {1, version, incarnation, text(now)}

--@include lib/merge_operation_log
--@include lib/delete_record
--@include lib/update_lookup_ttl

return reply
