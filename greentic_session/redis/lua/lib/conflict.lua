-- Shared by the scripts that write only over an expected token (ARGV 7 its incarnation, 8 its version);
-- put after lib/operation_log.

-- The verdict on a call that found neither the token it expects nor a trace of an earlier attempt. ARGV 4
-- is the owner, ARGV 5 the life to write.
local function conflict(ops)
  if not live then
    -- An earlier attempt may have been executed on a record that has expired since.
    return {doubt == '' and -2 or -5, '0', ''}
  end
  if owner ~= ARGV[4] then return {-3} end
  if outlived(ARGV[5]) then return {-5} end
  if doubt ~= '' and incarnation == ARGV[7] then
    -- A conflict is certain only while it is known who made the version after the expected one.
    local slot = call('HGET', KEYS[1], 'op' .. (ARGV[8] + 1) % 8) or ''
    local current = slot .. (string.match(ops, '^(.-):[1d];') or ops)
    if not string.find(current, ':' .. text(ARGV[8] + 1) .. ';', 1, true) then return {-5} end
  elseif overrun(ops, time) then
    return {-5}
  end
  return {-2, version, incarnation}
end
