-- Write the next version of a record as sessions/update_cas does, if the caller's lease is valid.
--
-- KEYS  1 record   HASH  see lib/record
--       2 lookup   HASH  see lib/record
--       3 grant    HASH  see lib/check_fencing_token
--       4 and more  ZSET  the indexes, see lib/write_entries
-- ARGV 1-3: see lib/record.
-- ARGV  4 new_owner             team/user
--       5 new_ttl_ms            lifetime in ms, 0 never expires
--       6 new_body              opaque bytes
--       7 expected_incarnation  incarnation of the expected token
--       8 expected_version      version of the expected token
--       9 following_version     the version after the expected one
--      10 log_field             op0 ... op7: the field of the operation log for the following version
--      11 fencing_token         fencing token of the caller's lease
--      12 held_ms               see lib/check_entries
--      13 new_labels            see lib/check_entries
--      14 new_schema_version    as in sessions/put
-- Returns as sessions/update_cas does.
-- Verdicts: 1 done   -2 conflict   -3 mismatch   -5 unknown   -8 lease lost   -10 newer schema version
--           -11 not indexed
-- If an earlier attempt was executed while the lease was valid, its result is returned even after the lease.
-- Why atomic: a script runs alone. It decides first and writes last, because nothing rolls back.

local new_owner, new_ttl_ms, new_body = ARGV[4], ARGV[5], ARGV[6]
local expected_incarnation, expected_version, following_version = ARGV[7], ARGV[8], ARGV[9]
local LOG_FIELD, fencing_token, held_ms = ARGV[10], ARGV[11], ARGV[12]
local new_labels, new_schema_version = ARGV[13], ARGV[14]
local FIRST_ENTRY = 4

--@include lib/record
--@include lib/operation_log
--@include lib/conflict
--@include lib/check_fencing_token

if not is_held then
  local shared_log = call('HGET', KEYS[1], 'ops') or ''
  if not find_earlier_attempt(log) and not find_earlier_attempt(shared_log) then
    local is_as_expected = live and version == expected_version and incarnation == expected_incarnation
    return {not is_as_expected and conflict_reply(shared_log)[1] == -5 and -5 or -8}
  end
end

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

--@include lib/update_reply
