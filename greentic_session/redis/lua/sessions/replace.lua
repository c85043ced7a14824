-- Replace a live record by a new incarnation under the same key, if its token is the expected one.
--
-- KEYS  1 record   HASH  see lib/record
--       2 lookup   HASH  see lib/record
--       3 events   ZSET  the completed events of the old incarnation, which are deleted with it
--       4 and more  ZSET  the indexes, see lib/write_entries
-- ARGV 1-3: see lib/record.
-- ARGV  4 new_owner             team/user. The team stays, the user may change
--       5 new_ttl_ms            lifetime in ms, 0 never expires
--       6 new_body              opaque bytes
--       7 new_incarnation       incarnation of the new record
--       8 expected_incarnation  incarnation of the expected token
--       9 expected_version      version of the expected token
--      10 held_ms               see lib/check_entries
--      11 new_labels            see lib/check_entries
--      12 new_schema_version    as in sessions/put
-- Returns {1, version, incarnation, at} of the new record, {-2, version, incarnation} with the stored token,
-- {-2, '0', ''} if the record is absent, or {verdict}. If the old incarnation waited, its reply scope, its owner and the
-- start of its wait follow. If it had index entries, owner newline labels are last.
-- Verdicts: 1 done   -2 conflict   -3 mismatch   -5 unknown   -10 newer schema version   -11 not indexed
-- Why atomic: a script runs alone. It decides first and writes last, because nothing rolls back.

local new_owner, new_ttl_ms, new_body, new_incarnation = ARGV[4], ARGV[5], ARGV[6], ARGV[7]
local expected_incarnation, expected_version = ARGV[8], ARGV[9]
local held_ms, new_labels, new_schema_version = ARGV[10], ARGV[11], ARGV[12]
local LOG_FIELD, FIRST_ENTRY = 'ops', 4

--@include lib/record
--@include lib/operation_log

local result, done_at = find_earlier_attempt(log)
if result then return {1, result, new_incarnation, done_at} end
if log_overrun(log) then return {-5} end
-- An earlier attempt may have been executed on a record that has expired since.
if not live then return {ambiguous_since == '' and -2 or -5, '0', ''} end
if string.match(owner, '^[^/]*/') ~= string.match(new_owner, '^[^/]*/') then return {-3} end
if may_have_expired(new_ttl_ms) then return {-5} end
if version ~= expected_version or incarnation ~= expected_incarnation then return {-2, version, incarnation} end
--@include lib/check_schema_version
reply = {1, '1', new_incarnation, text(now)}
if waits_on then
  reply[5], reply[6], reply[7] = waits_on, owner, call('HGET', KEYS[1], 'since')
end
local stored_labels = call('HGET', KEYS[1], 'labels') or ''
if entries_end then reply[#reply + 1] = owner .. '\n' .. stored_labels end
call('ZCARD', KEYS[3])  -- fails before the first write if the key holds another type of value
next_version, next_incarnation = '1', new_incarnation
-- From here on the old incarnation counts as expired. So the texts below end its wait and its claim, and move its
-- operation log, as they do when a session is created in place of an expired one.
live = false
if new_labels == '-' then new_labels = stored_labels end
local is_writing = true

--@include lib/check_entries
--@include lib/write_entries
--@include lib/merge_operation_log
--@include lib/write_record

call('DEL', KEYS[3])

--@include lib/update_lookup_ttl

return reply
