-- Delete the record and the events of a session that waits under a reply scope.
--
-- KEYS  1 record   HASH  see lib/record
--       2 lookup   HASH  see lib/record
--       3 events   ZSET  see lib/wait_state
-- ARGV 1-3: see lib/record.
-- ARGV  4 expected_owner  team/user
--       5 scope_hash      reply scope, as a hash
--       6 tombstone_ms    how long the tombstone stays: see lib/delete_record
-- Returns {1, version, incarnation, at} of the deleted record, or {verdict}. If it has index entries, owner newline
-- labels follow.
-- Verdicts: 1 done   0 absent   -5 unknown
-- Why atomic: a script runs alone. It decides first and writes last, because nothing rolls back.

local expected_owner, scope_hash, tombstone_ms = ARGV[4], ARGV[5], ARGV[6]
local LOG_FIELD = 'ops'

--@include lib/record
--@include lib/operation_log
--@include lib/event_set
--@include lib/wait_state

local result, done_at = find_earlier_attempt(log)
if result then return {1, '0', '', done_at} end
if log_overrun(log) then return {-5} end
if not live or owner ~= expected_owner or waits_on ~= scope_hash then return {0} end
call('HLEN', KEYS[2])  -- fails before the first write if a key holds another type of value
call('ZCARD', KEYS[3])
call('DEL', KEYS[3])
deletes = true
reply = {1, version, incarnation, text(now)}
if entries_end then reply[5] = owner .. '\n' .. (call('HGET', KEYS[1], 'labels') or '') end

--@include lib/merge_operation_log
--@include lib/delete_record
--@include lib/update_lookup_ttl

return reply
