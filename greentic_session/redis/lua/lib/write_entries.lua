-- Write the entries of a session in the indexes, which are the KEYS from FIRST_ENTRY on. Include it after
-- lib/check_entries.
--
-- An index is a ZSET: session key, escaped as in the name of its record -> ms since the epoch until which the entry is
-- needed. An entry without an end has a score from 1e15 on. Its last digits are a hash, so a reader can page by score.
-- A score falls only if a session gets an end, and only together with its record. In a cluster, it never falls, because
-- the record of another write may come last.
--
-- Reads: KEYS, FIRST_ENTRY, entries_until, now, call, entry_member (nil for the key in the name of the record).
-- Sets: nothing.

if entries_until and KEYS[FIRST_ENTRY] then
  local SWEEP_LIMIT, ENDLESS = '4', 1e15  -- limit on the expired entries that an addition removes
  local member, score = entry_member or string.match(KEYS[1], '{(.*)}$'), entries_until
  if score == '0' then
    score = string.format('%.0f', ENDLESS + tonumber(string.sub(redis.sha1hex(member), 1, 8), 16))
  end
  for i = FIRST_ENTRY, #KEYS do
    if entry_member or (tonumber(call('ZSCORE', KEYS[i], member)) or 0) < ENDLESS then
      call('ZADD', KEYS[i], 'GT', score, member)
    else
      call('ZADD', KEYS[i], score, member)
    end
    local expired = call('ZRANGEBYSCORE', KEYS[i], '-inf', '(' .. now, 'LIMIT', '0', SWEEP_LIMIT)
    if #expired > 0 then call('ZREM', KEYS[i], unpack(expired)) end
    local last = call('ZRANGE', KEYS[i], '-1', '-1', 'WITHSCORES')[2]
    if not last or last + 0 >= ENDLESS then
      call('PERSIST', KEYS[i])
    else
      call('PEXPIREAT', KEYS[i], string.format('%.0f', last))
    end
  end
end
