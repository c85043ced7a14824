-- Returns the reply of a write that expects a token, if neither that token nor an earlier attempt was found. Include it
-- after lib/operation_log.
--
-- Reads: KEYS 1, new_owner, new_ttl_ms, expected_incarnation, expected_version (of the script), and the locals of
--    lib/record and lib/operation_log.
-- Functions: conflict_reply.

local function conflict_reply(shared_log)  -- the field ops, which all scripts except update_cas write
  if not live then
    -- An earlier attempt may have been executed on a record that has expired since.
    return {ambiguous_since == '' and -2 or -5, '0', ''}
  end
  if owner ~= new_owner then return {-3} end
  if may_have_expired(new_ttl_ms) then return {-5} end
  if ambiguous_since ~= '' and incarnation == expected_incarnation then
    -- A conflict is certain only while the log has the call that wrote the version after the expected one.
    local entry = call('HGET', KEYS[1], 'op' .. (expected_version + 1) % 8) or ''
    local of_incarnation = entry .. (string.match(shared_log, '^(.-):[1d];') or shared_log)
    if not string.find(of_incarnation, ':' .. text(expected_version + 1) .. ';', 1, true) then return {-5} end
  elseif log_overrun(shared_log) then
    return {-5}
  end
  return {-2, version, incarnation}
end
