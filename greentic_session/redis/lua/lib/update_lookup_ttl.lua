-- Let the lookup live at least as long as the longest-lived record in it. Include it after the write of the record.
--
-- Reads: KEYS 2, added (what HSET or HDEL of the field returned, nil if the script wrote nothing), expires and last_ms
--    (of the new lifetime, nil if the script deleted the record), and the locals of lib/record.
--
-- The cost does not grow with the number of tenants:
--    * A write that prolongs the record prolongs the lookup, and reads no other field.
--    * Up to 64 fields, any other write reads all of them, removes those of expired records, sets the exact lifetime.
--      Before Redis 7.0, PEXPIREAT has no GT, so a write that prolongs the record does the same.
--    * With more fields, the lifetime of the lookup only grows, because a bounded number of reads cannot find the next
--      longest lifetime. A write that adds or removes a field removes the expired ones among 4 random fields. So while
--      records come and go, at most about a quarter of the fields are of expired records.

if added == 0 and live and expires == 0 then
  if stored_expires ~= 0 then call('PERSIST', KEYS[2]) end
elseif added == 0 and live and expires and stored_expires ~= 0 and expires >= stored_expires
  and redis.REDIS_VERSION_NUM then
  call('PEXPIREAT', KEYS[2], last_ms, 'GT')  -- since Redis 7.0
elseif added then
  local MANY, SAMPLE = 64, '4'
  local size = call('HLEN', KEYS[2])
  local fields = {}
  if size > MANY then
    if expires == 0 then
      call('PERSIST', KEYS[2])
    elseif expires and redis.REDIS_VERSION_NUM then
      call('PEXPIREAT', KEYS[2], last_ms, 'GT')
    elseif expires then
      local MARGIN = 1000  -- ms, more than the clock readings in one script differ
      local left = call('PTTL', KEYS[2])
      if left ~= -1 and now + left < expires + MARGIN then
        call('PEXPIREAT', KEYS[2], (expires + 2 * MARGIN) .. '')
      end
    end
    if added ~= 0 then fields = call('HRANDFIELD', KEYS[2], SAMPLE, 'WITHVALUES') end
  elseif size == 1 and expires then
    if expires == 0 then call('PERSIST', KEYS[2]) else call('PEXPIREAT', KEYS[2], last_ms) end
  else
    fields = call('HGETALL', KEYS[2])
  end
  local longest
  for i = 1, #fields, 2 do
    local ends = tonumber(fields[i + 1]) or 1  -- a value that is not a number counts as expired
    if ends ~= 0 and ends < now then
      call('HDEL', KEYS[2], fields[i])
    elseif ends == 0 or (longest ~= 0 and (not longest or ends > longest)) then
      longest = ends
    end
  end
  if size <= MANY and longest == 0 then
    call('PERSIST', KEYS[2])
  elseif size <= MANY and longest then
    call('PEXPIREAT', KEYS[2], longest .. '')
  end
end
