-- Write the next version of a live record whose token is the expected one.
--
-- KEYS, ARGV 1-3, returns, why atomic: see record.lua.
-- ARGV  4 owner   team/user
--       5 ttl     life in ms, 0 never expires
--       6 body    opaque bytes
--       7 inc     incarnation expected
--       8 cas     version expected
-- Verdicts: 1 done   -2 conflict (with the stored token)   -3 mismatch   -5 unknown

if live and version == ARGV[8] and incarnation == ARGV[7] then
  if owner ~= ARGV[4] then return {-3} end
  return write(text(version + 1), incarnation)
end
local mark, done_at = recall()
if mark then return done(mark, ARGV[7], done_at, found_expiry()) end
return conflict(ARGV[7], ARGV[8])
