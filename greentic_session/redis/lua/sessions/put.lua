-- Write a record. If a record of the same owner is live, write its next version, otherwise a new record.
--
-- KEYS  1 record   HASH  see lib/record
--       2 lookup   HASH  see lib/record
--       3 and more  ZSET  the indexes, see lib/write_entries
-- ARGV 1-3: see lib/record.
-- ARGV  4 new_owner        team/user
--       5 new_ttl_ms       lifetime in ms, 0 never expires
--       6 new_body         opaque bytes
--       7 new_incarnation  incarnation of a new record
--       8 held_ms          see lib/check_entries
--       9 new_labels       see lib/check_entries
--      10 new_schema_version  version of the state. Absent: no check, and the stored version stays
-- Returns {1, version, incarnation, at}, or {verdict}. If the session waits, its reply scope, its owner and its expiry
-- follow. If it had other labels, owner newline labels are last.
-- Verdicts: 1 done   -3 mismatch   -5 unknown   -10 newer schema version   -11 not indexed
-- Why atomic: a script runs alone. It decides first and writes last, because nothing rolls back.

local new_owner, new_ttl_ms, new_body, new_incarnation = ARGV[4], ARGV[5], ARGV[6], ARGV[7]
local held_ms, new_labels, new_schema_version = ARGV[8], ARGV[9], ARGV[10]
local LOG_FIELD, FIRST_ENTRY = 'ops', 3

--@include lib/record
--@include lib/operation_log
--@include lib/put_verdict
--@include lib/check_schema_version

local is_writing = true

--@include lib/check_entries
--@include lib/write_entries
--@include lib/merge_operation_log
--@include lib/write_record
--@include lib/update_lookup_ttl
--@include lib/token_reply
