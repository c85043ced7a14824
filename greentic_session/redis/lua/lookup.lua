-- Give the lookup the life of its longest-lived record; put after the record was written, or removed.
-- `added` is what HSET (HDEL) of the field answered; `expires` and `ends` are the new life's, nil if the
-- record was removed.
--
-- Most writes can only make that life longer, and need not look at other tenants' fields, of which
-- there may be thousands. Those of expired records go when a field comes or goes.

if added == 0 and live and expires == 0 then
  if was ~= 0 then call('PERSIST', KEYS[2]) end
elseif added == 0 and live and expires and was ~= 0 and expires >= was and redis.REDIS_VERSION_NUM then
  call('PEXPIREAT', KEYS[2], ends, 'GT')  -- since Redis 7.0
elseif added then
  local MANY = 64
  local size = call('HLEN', KEYS[2])
  local is_new = expires and not (added == 0 and live)
  local left = call('PTTL', KEYS[2])
  if size == 1 and expires then
    if expires == 0 then call('PERSIST', KEYS[2]) else call('PEXPIREAT', KEYS[2], ends) end
  elseif is_new and expires == 0 and size > MANY and size % MANY ~= 0 then
    call('PERSIST', KEYS[2])
  elseif size > MANY and size % MANY ~= 0 and is_new and left >= 0 and now + left < expires - 1000 then
    call('PEXPIREAT', KEYS[2], ends)
  elseif size > 0 and (size <= MANY or (is_new and size % MANY == 0)
      or (left == -1 and was == 0 and not is_new)
      or (left >= 0 and now + left <= math.max(was, expires or 0) + 1000)) then
    -- Unless another record lives longer for certain: clocks of one script differ by less than a second.
    local all = call('HGETALL', KEYS[2])
    local longest
    for i = 1, #all, 2 do
      local until_ms = tonumber(all[i + 1]) or 1  -- what is no number ended long ago
      if until_ms ~= 0 and until_ms < now then
        call('HDEL', KEYS[2], all[i])
      elseif until_ms == 0 or (longest ~= 0 and (not longest or until_ms > longest)) then
        longest = until_ms
      end
    end
    if longest == 0 then
      call('PERSIST', KEYS[2])
    elseif longest then
      call('PEXPIREAT', KEYS[2], longest .. '')
    end
  end
end
