-- Write the next version of a live record if its token is the expected one.
--
-- KEYS  1 record   HASH  see lib/record
--       2 lookup   HASH  see lib/record
--       3 and more  ZSET  the indexes, see lib/write_entries
-- ARGV 1-3: see lib/record.
-- ARGV  4 new_owner             team/user
--       5 new_ttl_ms            lifetime in ms, 0 never expires
--       6 new_body              opaque bytes
--       7 expected_incarnation  incarnation of the expected token
--       8 expected_version      version of the expected token
--       9 following_version     the version after the expected one
--      10 log_field             op0 ... op7: the field of the operation log for the following version
--      11 held_ms               see lib/check_entries
--      12 new_labels            see lib/check_entries
--      13 new_schema_version    as in sessions/put
-- Returns only `at`, as an integer, after a write to a session that does not wait. A list would cost 0.8 us, and the
-- caller knows the rest. Otherwise returns {1, version, incarnation, at}, {-2, version, incarnation} with the stored
-- token, {-2, '0', ''} if the record is absent, or {verdict}. If the session waits, its reply scope, its owner and its
-- expiry follow `at`.
-- Verdicts: 1 done   -2 conflict   -3 mismatch   -5 unknown   -10 newer schema version   -11 not indexed
-- Why atomic: a script runs alone. It decides first and writes last, because nothing rolls back.

local new_owner, new_ttl_ms, new_body = ARGV[4], ARGV[5], ARGV[6]
local expected_incarnation, expected_version, following_version = ARGV[7], ARGV[8], ARGV[9]
local LOG_FIELD, held_ms, new_labels, new_schema_version = ARGV[10], ARGV[11], ARGV[12], ARGV[13]
local FIRST_ENTRY = 3

--@include lib/record
--@include lib/update_cas_verdict
if next_version then
--@include lib/check_schema_version
end

local is_writing = next_version

--@include lib/check_entries
--@include lib/write_entries
--@include lib/write_record
--@include lib/update_lookup_ttl

if next_version and not waits_on then return now end

--@include lib/operation_log
--@include lib/conflict
--@include lib/update_reply
