-- Take a lock, or keep a place in its queue.
--
-- KEYS, ARGV 1-3, why atomic: see lib/lock.
-- ARGV  4 name    of the caller, for people
--       5 lease   ms
--       6 place   ms for which a waiter keeps its place
--       7 queue   1 to keep a place if the lock is not to be had, else 0
--       8 floor   us: the fence is to be higher
-- Returns {1, fence, lease end in ms, ms left}, or {-6, lease end in ms, ms until it is worth to ask again}.
-- A token that holds the lock is told so again; one that has a place keeps it.

--@include lib/lock

if holds then return {1, told[1], told[2], whole(lease - now)} end
forget_lapsed()
local rank = call('ZRANK', KEYS[2], token)
local ahead = rank or call('ZCARD', KEYS[2])
local opens = lease + math.ceil(ahead * ARGV[6] / 4)
if now >= opens then
  fence = whole(math.max(time[1] * 1000000 + time[2], fence + 1, ARGV[8] + 1))
  lease = now + ARGV[5]
  -- Goes first: a server that is out of memory refuses neither command, and once a script has written, it
  -- lets the script finish (Redis docs, "Eval scripts"). So who waits is served when memory is full.
  if rank then forget(token) end
  call('HSET', KEYS[1], 'fence', fence, 'lease', whole(lease), 'by', token, 'name', ARGV[4])
  see_to_the_end()
  return {1, fence, whole(lease), whole(lease - now)}
end
if ARGV[7] == '1' then
  local ends = now + ARGV[6]
  kept = math.max(kept, ends)
  if rank then
    call('PEXPIREAT', KEYS[2], last_ms(math.max(lease, kept)))  -- goes first, as above
  else
    local last = call('ZRANGE', KEYS[2], '-1', '-1', 'WITHSCORES')
    call('ZADD', KEYS[2], whole((tonumber(last[2]) or 0) + 1), token)
  end
  call('HSET', KEYS[1], 'w:' .. token, whole(ends), 'kept', whole(kept))
  see_to_the_end()
end
return {-6, whole(lease), whole(opens - now)}
