-- Give back what a token has of a lock, be it the lock or a place, and ring for whoever is next.
--
-- KEYS, ARGV 1-3, why atomic: see lib/lock.
-- ARGV  4 lease   when the token's lease ends as far as it knows (ms since the epoch), 0 for none
--       5 bells   what the channels of bells begin with
-- Verdicts: 1 done   -8 the token did not hold the lock. A repeated call finds nothing: it answers 1 if
-- the lease still ran when the first attempt was sent, since nothing but that ended it.

--@include lib/lock

local rank = call('ZRANK', KEYS[2], token)
if rank then forget(token) end
if holds then
  lease = now
  call('HDEL', KEYS[1], 'by', 'name')
  call('HSET', KEYS[1], 'lease', whole(lease))
end
if holds or rank then
  forget_lapsed()
  local first = call('ZRANGE', KEYS[2], '0', '0')[1]
  if first and now >= lease and (holds or rank == 0) then
    redis.pcall('PUBLISH', ARGV[5] .. first, '1')
  end
  see_to_the_end()
end
if holds or (doubt ~= '' and tonumber(doubt) < tonumber(ARGV[4])) then return {1} end
return {-8}
