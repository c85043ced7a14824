-- Merge op0-op7 into the operation log if the script deletes the record or replaces an expired one. The newest entry
-- comes first.
--
-- Reads: KEYS 1, deletes, and the locals of lib/record.
-- Sets: log.

if version and (deletes or not live) then
  local fields = call('HMGET', KEYS[1], 'op0', 'op1', 'op2', 'op3', 'op4', 'op5', 'op6', 'op7')
  local entries, executed_at = {}, {}
  for i = 1, 8 do
    if fields[i] then entries[#entries + 1] = fields[i] end
  end
  if #entries > 0 then
    for entry in string.gmatch(log, '[^;]+;') do
      entries[#entries + 1] = entry
    end
    for _, entry in ipairs(entries) do
      local secs, us = string.match(entry, '^%x+:(%d+):(%d+):')
      executed_at[entry] = secs and secs * 1000000 + us or 0
    end
    table.sort(entries, function(one, other) return executed_at[one] > executed_at[other] end)
    log = table.concat(entries)
  end
end
