-- Shared by the scripts that act on whatever live record there is; put after lib/record.

-- A verdict against a call with a caller's owners (ARGV 4 its own, 5 its team's), or nil. A call
-- without a caller brings '' twice: it meets no fence, but must not choose between tenants.
local refusal
if not live then
  refusal = 0
elseif ARGV[4] ~= '' then
  if owner ~= ARGV[4] and owner ~= ARGV[5] then refusal = -3 end
elseif call('HLEN', KEYS[2]) > 1 then
  local all = call('HGETALL', KEYS[2])
  for i = 1, #all, 2 do
    local ends = tonumber(all[i + 1]) or 1
    if all[i] ~= field and (ends == 0 or ends >= now) then refusal = -4 end
  end
end
