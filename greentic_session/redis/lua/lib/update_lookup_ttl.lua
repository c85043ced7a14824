-- Give the lookup the life of its longest-lived record; put after the record was written, or removed.
-- `added` is what HSET (HDEL) of the field answered, nil if nothing was written; `expires` and `ends` are
-- those of the new life, nil if the record was removed.
--
-- Most writes can only make that life longer, and need not look at other tenants' fields, of which
-- there may be thousands. Those of expired records go when a field comes or goes.

if added == 0 and live and expires == 0 then
  if was ~= 0 then call('PERSIST', KEYS[2]) end
elseif added == 0 and live and expires and was ~= 0 and expires >= was and redis.REDIS_VERSION_NUM then
  call('PEXPIREAT', KEYS[2], ends, 'GT')  -- since Redis 7.0
elseif added then
  local MANY = 64
  local SURE = 1000  -- ms; more than the clocks of one script differ by
  local size = call('HLEN', KEYS[2])
  local is_new = expires and not (added == 0 and live)
  local is_read = size <= MANY or is_new and size % MANY == 0
  if not is_read then
    local left = call('PTTL', KEYS[2])
    if left == -1 then
      is_read = not is_new and was == 0  -- perhaps this was the only record that never expires
    elseif expires == 0 then
      call('PERSIST', KEYS[2])
    elseif expires and now + left < expires - SURE then
      call('PEXPIREAT', KEYS[2], ends)
    else  -- unless another record lives longer than this one did and does
      is_read = now + left <= math.max(was, expires or 0) + SURE
    end
  elseif size == 1 and expires then
    if expires == 0 then call('PERSIST', KEYS[2]) else call('PEXPIREAT', KEYS[2], ends) end
    is_read = false
  end
  if is_read then
    local all = call('HGETALL', KEYS[2])
    local longest
    for i = 1, #all, 2 do
      local last = tonumber(all[i + 1]) or 1  -- what is no number ended long ago
      if last ~= 0 and last < now then
        call('HDEL', KEYS[2], all[i])
      elseif last == 0 or (longest ~= 0 and (not longest or last > longest)) then
        longest = last
      end
    end
    if longest == 0 then
      call('PERSIST', KEYS[2])
    elseif longest then
      call('PEXPIREAT', KEYS[2], longest .. '')
    end
  end
end
