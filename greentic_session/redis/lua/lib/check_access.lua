-- The access check of a script that acts on any live record. Include it after lib/record.
--
-- Reads: KEYS 2, exact_owner, shared_owner (of the script), and the locals of lib/record.
-- Sets: refusal (the verdict against the call, nil if it may act).
--
-- A call without a caller has '' for both owners. It passes the check of the owner. It is refused as ambiguous if
-- the session key exists in several tenants.

local refusal
if not live then
  refusal = 0
elseif exact_owner ~= '' then
  if owner ~= exact_owner and owner ~= shared_owner then refusal = -3 end
elseif call('HLEN', KEYS[2]) > 1 then
  local all = call('HGETALL', KEYS[2])
  for i = 1, #all, 2 do
    local ends = tonumber(all[i + 1]) or 1
    if all[i] ~= lookup_field and (ends == 0 or ends >= now) then refusal = -4 end
  end
end
