-- Bring what update_cas left in fields of its own into the ring, the newest first, when a record ends:
-- it is removed (`keep` is set), or has expired and another is to take its place.

if version and (keep or not live) then
  local slots = call('HMGET', KEYS[1], 'op0', 'op1', 'op2', 'op3', 'op4', 'op5', 'op6', 'op7')
  local entries, made_at = {}, {}
  for i = 1, 8 do
    if slots[i] then entries[#entries + 1] = slots[i] end
  end
  if #entries > 0 then
    for entry in string.gmatch(ops, '[^;]+;') do
      entries[#entries + 1] = entry
    end
    for _, entry in ipairs(entries) do
      local secs, us = string.match(entry, '^%x+:(%d+):(%d+):')
      made_at[entry] = secs and secs * 1000000 + us or 0
    end
    table.sort(entries, function(one, other) return made_at[one] > made_at[other] end)
    ops = table.concat(entries)
  end
end
