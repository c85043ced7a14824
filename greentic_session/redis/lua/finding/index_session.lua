-- Write the index entries of a live record that has none, or whose labels are not those stored with it.
--
-- KEYS  1 record   HASH  see lib/record
--       2 lookup   HASH  see lib/record
--       3 and more  ZSET  the indexes, see lib/write_entries
-- ARGV 1-3: see lib/record.
-- ARGV  4 expected_incarnation  incarnation of the record that the caller read, '' for any
--       5 expected_version      its version
--       6 held_ms               see lib/check_entries
--       7 new_labels            see lib/check_entries
-- Returns {1, '1' if entries were missing, otherwise '0'}, or {verdict}.
-- Verdicts: 1 done   0 absent   -2 conflict, because the record has changed since   -11 not indexed
-- A repeated call is idempotent. Version, body and lifetime stay.
-- Why atomic: a script runs alone. It decides first and writes last, because nothing rolls back.

local expected_incarnation, expected_version, held_ms, new_labels = ARGV[4], ARGV[5], ARGV[6], ARGV[7]
local LOG_FIELD, FIRST_ENTRY = 'ops', 3

--@include lib/record

if not live then return {0} end
if expected_incarnation ~= '' and (version ~= expected_version or incarnation ~= expected_incarnation) then
  return {-2}
end
local is_writing, new_ttl_ms = true, ttl
if ttl ~= '0' then new_ttl_ms = stored_expires - now end

--@include lib/check_entries

--@include lib/write_labels

--@include lib/write_entries

return {1, entries_until and '1' or '0'}
