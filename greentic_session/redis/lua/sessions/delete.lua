-- Delete a live record, or one that cannot be read.
--
-- KEYS  1 record   HASH  see lib/record
--       2 lookup   HASH  see lib/record
--       3 events   ZSET  the completed events of the session, which are deleted with it
-- ARGV 1-3: see lib/record.
-- ARGV  4 exact_owner           owner whose record may be deleted: the caller's own, '' for a call without a caller,
--                               '*' for any owner
--       5 shared_owner          owner whose record may also be deleted: the caller's team without a user
--       6 expected_incarnation  incarnation of the expected token, '' for any token
--       7 expected_version      version of the expected token, '' for any token
--       8 tombstone_ms          how long the tombstone stays: see lib/delete_record
-- Returns {1, version, incarnation, at} of the deleted record, {-2, version, incarnation} with the stored token, or
-- {verdict}. If the session waited, its reply scope, its owner and the start of its wait follow. If it has index entries,
-- owner newline labels are last.
-- Verdicts: 1 done   0 absent   -2 conflict   -3 mismatch   -4 ambiguous   -5 unknown
-- Why atomic: a script runs alone. It decides first and writes last, because nothing rolls back.

local exact_owner, shared_owner = ARGV[4], ARGV[5]
local expected_incarnation, expected_version, tombstone_ms = ARGV[6], ARGV[7], ARGV[8]
local LOG_FIELD = 'ops'

--@include lib/delete_unreadable
--@include lib/record
--@include lib/operation_log
--@include lib/check_access

local result, done_at = find_earlier_attempt(log)
if result then return {1, '0', '', done_at} end
if log_overrun(log) then return {-5} end
if refusal then return {refusal} end
if expected_version ~= '' and (version ~= expected_version or incarnation ~= expected_incarnation) then
  return {-2, version, incarnation}
end
if not tonumber(version) then return redis.error_reply('WRONGTYPE the version of the record is not a number') end
reply = {1, version, incarnation, text(now)}
if waits_on then
  reply[5], reply[6], reply[7] = waits_on, owner, call('HGET', KEYS[1], 'since')
end
if entries_end then reply[#reply + 1] = owner .. '\n' .. (call('HGET', KEYS[1], 'labels') or '') end
call('HLEN', KEYS[2])  -- fails before the first write if a key holds another type of value
call('ZCARD', KEYS[3])
call('DEL', KEYS[3])
deletes = true

--@include lib/merge_operation_log
--@include lib/delete_record
--@include lib/update_lookup_ttl

return reply
