-- Release the lock or the queue position of a token, and notify the next waiter.
--
-- KEYS  1 lock     HASH  see lib/lock
--       2 queue    ZSET  see lib/lock
-- ARGV 1-2: see lib/lock.
-- ARGV  3 token            token of the caller
--       4 known_lease_end  the end of the token's lease that the caller knows (ms since the epoch), 0 if it has none
--       5 channel_prefix   prefix of the channels of tokens
-- Returns {verdict}.
-- Verdicts: 1 done   -8 the token did not hold the lock
-- A repeated call finds nothing. It returns 1 if the lease had not ended when the first attempt was sent. In that case,
-- only that attempt can have ended the lease.
-- Why atomic: a script runs alone. It decides first and writes last, because nothing rolls back.

local known_lease_end, channel_prefix = ARGV[4], ARGV[5]

--@include lib/fencing_retention
--@include lib/lock

local rank = waiter_count > 0 and call('ZRANK', KEYS[2], token)
if rank then remove_waiter(token) end
if is_holder then
  lease_end = now
  -- HDEL is allowed at maxmemory, and after a script's first write the server no longer rejects OOM commands. So this
  -- also works when memory is full.
  if waiter_count > 0 then
    call('HDEL', KEYS[1], 'by', 'name', 'start')
    call('HSET', KEYS[1], 'lease', whole(lease_end))
  end
end
if is_holder or rank then
  remove_lapsed_waiters()
  local first = waiter_count > 0 and call('ZRANGE', KEYS[2], '0', '0')[1]
  if first and now >= lease_end and (is_holder or rank == 0) then
    redis.pcall('PUBLISH', channel_prefix .. first, '1')
  end
  set_expiry()
end
if is_holder or (ambiguous_since ~= '' and tonumber(ambiguous_since) < tonumber(known_lease_end)) then return {1} end
return {-8}
