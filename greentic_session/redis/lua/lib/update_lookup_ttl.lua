-- Let the lookup live as long as the longest-lived record in it. Include it after the write of the record.
--
-- Reads: KEYS 2, added (what HSET or HDEL of the field returned, nil if the script wrote nothing), expires and last_ms
--    (of the new lifetime, nil if the script deleted the record), and the locals of lib/record.
--
-- Most writes only prolong the lookup. They do not read the fields of other tenants, because there may be thousands.
-- A script reads all fields, and removes those of expired records, in these cases only:
--    * The lookup has at most 64 fields, and the record was created, was removed, or expires earlier than before.
--      Before Redis 7.0, which has no GT for PEXPIREAT, also if it expires later.
--    * The lookup has more fields, their number is a multiple of 64, and the record was created.
--    * The lookup has more fields, and the record may have been the longest-lived one before this change.

if added == 0 and live and expires == 0 then
  if stored_expires ~= 0 then call('PERSIST', KEYS[2]) end
elseif added == 0 and live and expires and stored_expires ~= 0 and expires >= stored_expires
  and redis.REDIS_VERSION_NUM then
  call('PEXPIREAT', KEYS[2], last_ms, 'GT')  -- since Redis 7.0
elseif added then
  local MANY = 64
  local MARGIN = 1000  -- ms, more than the clock readings in one script differ
  local size = call('HLEN', KEYS[2])
  local is_new = expires and not (added == 0 and live)  -- the script wrote a record where none was live
  local reads_all = size <= MANY or is_new and size % MANY == 0
  if not reads_all then
    local left = call('PTTL', KEYS[2])
    if left == -1 then
      -- The lookup never expires. This record may have been the only one that never expired.
      reads_all = not is_new and stored_expires == 0
    elseif expires == 0 then
      call('PERSIST', KEYS[2])
    elseif expires and now + left < expires - MARGIN then
      call('PEXPIREAT', KEYS[2], last_ms)
    else
      -- If the lookup outlives both the old and the new lifetime of this record, then another record decides.
      reads_all = now + left <= math.max(stored_expires, expires or 0) + MARGIN
    end
  elseif size == 1 and expires then
    if expires == 0 then call('PERSIST', KEYS[2]) else call('PEXPIREAT', KEYS[2], last_ms) end
    reads_all = false
  end
  if reads_all then
    local all = call('HGETALL', KEYS[2])
    local longest
    for i = 1, #all, 2 do
      local ends = tonumber(all[i + 1]) or 1  -- a value that is no number counts as expired
      if ends ~= 0 and ends < now then
        call('HDEL', KEYS[2], all[i])
      elseif ends == 0 or (longest ~= 0 and (not longest or ends > longest)) then
        longest = ends
      end
    end
    if longest == 0 then
      call('PERSIST', KEYS[2])
    elseif longest then
      call('PEXPIREAT', KEYS[2], longest .. '')
    end
  end
end
