-- Create a record if none is live under its key.
--
-- KEYS  1 record   HASH  see lib/record
--       2 lookup   HASH  see lib/record
--       3 and more  ZSET  the indexes, see lib/write_entries
-- ARGV 1-3: see lib/record.
-- ARGV  4 new_owner        team/user
--       5 new_ttl_ms       lifetime in ms, 0 never expires
--       6 new_body         opaque bytes
--       7 new_incarnation  incarnation of the record
--       8 held_ms          see lib/check_entries
--       9 new_labels       see lib/check_entries
--      10 new_schema_version  version of the state. Absent: none is stored
-- Returns {1, version, incarnation, at}, or {verdict}.
-- Verdicts: 1 done   -1 exists   -3 mismatch   -5 unknown   -11 not indexed
-- Why atomic: a script runs alone. It decides first and writes last, because nothing rolls back.

local new_owner, new_ttl_ms, new_body, new_incarnation = ARGV[4], ARGV[5], ARGV[6], ARGV[7]
local held_ms, new_labels, new_schema_version = ARGV[8], ARGV[9], ARGV[10]
local LOG_FIELD, FIRST_ENTRY = 'ops', 3

--@include lib/record
--@include lib/operation_log

local result, done_at = find_earlier_attempt(log)
if result then return {1, result, new_incarnation, done_at} end
if log_overrun(log) then return {-5} end
if live then return {owner ~= new_owner and -3 or -1} end
if may_have_expired(new_ttl_ms) then return {-5} end
next_version, next_incarnation = '1', new_incarnation
local is_writing = true

--@include lib/check_entries
--@include lib/write_entries
--@include lib/merge_operation_log
--@include lib/write_record
--@include lib/update_lookup_ttl
--@include lib/token_reply
