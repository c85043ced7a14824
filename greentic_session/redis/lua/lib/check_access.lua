-- The access check of a script that acts on any live record. Include it after lib/record.
--
-- Reads: KEYS 2, exact_owner, shared_owner (of the script), and the locals of lib/record.
-- Sets: refusal (the verdict of a refused call, nil if the call may act).
--
-- A call without a caller has '' for both owners, and skips the check of the owner. It is refused as ambiguous if
-- the session key exists in several tenants. A call for any owner of the tenant has '*' for both owners.

local refusal
if not live then
  refusal = 0
elseif exact_owner ~= '' then
  if owner ~= exact_owner and owner ~= shared_owner and exact_owner ~= '*' then refusal = -3 end
elseif call('HLEN', KEYS[2]) > 1 then
  -- This reads up to 64 fields at a time, because one live record of another tenant decides. It removes the fields of
  -- expired records, so each of them costs one call only.
  local SAMPLE = 64
  repeat
    local fields, removed = call('HRANDFIELD', KEYS[2], SAMPLE .. '', 'WITHVALUES'), 0
    for i = 1, #fields, 2 do
      local ends = tonumber(fields[i + 1]) or 1
      if fields[i] ~= lookup_field and ends ~= 0 and ends < now then
        removed = removed + call('HDEL', KEYS[2], fields[i])
      elseif fields[i] ~= lookup_field then
        refusal = -4
        break
      end
    end
  until refusal or #fields < 2 * SAMPLE or removed == 0
end
