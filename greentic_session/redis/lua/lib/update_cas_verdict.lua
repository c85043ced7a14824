-- Write the next version of a live record whose token is the expected one.
--
-- KEYS, ARGV 1-3, why atomic: see lib/record.
-- ARGV  4 owner   team/user
--       5 ttl     life in ms, 0 never expires
--       6 body    opaque bytes
--       7 inc     incarnation expected
--       8 cas     version expected
--       9 next    the version after that
--      10 slot    op0 ... op7: the field for that version
-- Returns as lib/record says, but when all is done and the session does not wait, `at` alone, as an
-- integer: a list costs 0.8 us, and the caller knows the rest.
-- Verdicts: 1 done   -2 conflict (with the stored token)   -3 mismatch   -5 unknown

if live and version == ARGV[8] and incarnation == ARGV[7] then
  if owner ~= ARGV[4] then return {-3} end
  next_version, inc = ARGV[9], incarnation
end
