-- Remove a live record.
--
-- KEYS, ARGV 1-3, returns, why atomic: see lib/record; of a session that waited also its reply scope, its
-- owner and since when it waited.
-- KEYS  3 events   ZSET  the completed events that the session remembers; removed with it
-- ARGV  4 exact    owner that may delete: the caller's own, '' for a call without one
--       5 shared   owner whose record may be deleted as well: the caller's team without a user
--       6 inc      incarnation expected, '' for any token
--       7 cas      version expected, '' for any token
--       8 keep     ms to keep the ring: see lib/delete_record
-- Verdicts: 1 done   0 absent   -2 conflict (with the stored token)   -3 mismatch   -4 ambiguous   -5 unknown

local RING = 'ops'

--@include lib/record
--@include lib/operation_log
--@include lib/check_access

local mark, done_at = recall(ops)
if mark then return {1, '0', '', done_at} end
if overrun(ops, time) then return {-5} end
if refusal then return {refusal} end
if ARGV[7] ~= '' and (version ~= ARGV[7] or incarnation ~= ARGV[6]) then
  return {-2, version, incarnation}
end
reply = {1, version, incarnation, text(now)}
if waits_on then
  reply[5], reply[6], reply[7] = waits_on, owner, call('HGET', KEYS[1], 'since')
end
call('HLEN', KEYS[2])  -- should another type stand there, or under the next name, fail here
call('ZCARD', KEYS[3])
call('DEL', KEYS[3])
keep = ARGV[8]

--@include lib/merge_operation_log
--@include lib/delete_record
--@include lib/update_lookup_ttl

return reply
