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
if mark then return {1, mark, ARGV[7], done_at} end
if not live then
  -- An earlier attempt may have been executed on a record that has expired since.
  return {age == '' and -2 or -5, '0', ''}
end
if owner ~= ARGV[4] then return {-3} end
if age ~= '' and incarnation == ARGV[7] then
  -- A conflict is certain only while the ring shows who made the version after the expected one.
  local current = string.match(ops, '^(.-):d;') or ops
  if not string.find(current, ':' .. text(ARGV[8] + 1) .. ';', 1, true) then return {-5} end
elseif overrun() then
  return {-5}
end
return {-2, version, incarnation}
