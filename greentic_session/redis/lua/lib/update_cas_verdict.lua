-- Decide an update_cas. Set the token to write if the stored token is the expected one. Include it after lib/record.
--
-- Reads: new_owner, expected_incarnation, expected_version, following_version (of the script), and the locals of
--    lib/record.
-- Sets: next_version, next_incarnation.

if live and version == expected_version and incarnation == expected_incarnation then
  if owner ~= new_owner then return {-3} end
  next_version, next_incarnation = following_version, incarnation
end
