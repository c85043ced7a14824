-- Write the next version of a live record if its token is the expected one.
--
-- KEYS, ARGV 1-3, why atomic: see lib/record.
-- ARGV  4 new_owner             team/user
--       5 new_ttl_ms            lifetime in ms, 0 never expires
--       6 new_body              opaque bytes
--       7 expected_incarnation  of the expected token
--       8 expected_version      of the expected token
--       9 following_version     the version after the expected one
--      10 log_field             op0 ... op7: the field of the operation log for the following version
-- Returns as lib/record says. But a write to a session that does not wait returns `at` alone, as an integer. Because
-- a list costs 0.8 us, and the caller knows the rest.
-- Verdicts: 1 done   -2 conflict (with the stored token)   -3 mismatch   -5 unknown

local new_owner, new_ttl_ms, new_body = ARGV[4], ARGV[5], ARGV[6]
local expected_incarnation, expected_version, following_version = ARGV[7], ARGV[8], ARGV[9]
local LOG_FIELD = ARGV[10]

--@include lib/record
--@include lib/update_cas_verdict
--@include lib/write_record
--@include lib/update_lookup_ttl

if next_version and not waits_on then return now end

--@include lib/operation_log
--@include lib/conflict
--@include lib/update_reply
