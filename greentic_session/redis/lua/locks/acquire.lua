-- Acquire a lock, or keep a position in its queue.
--
-- KEYS  1 lock     HASH  see lib/lock
--       2 queue    ZSET  see lib/lock
-- ARGV 1-2: see lib/lock.
-- ARGV  3 token        token of the caller
--       4 name         name of the caller, for people
--       5 lease_ms     length of the lease in ms
--       6 position_ms  ms for which a waiter keeps its queue position
--       7 queues       1 to keep a queue position if the lock is not available, otherwise 0
--       8 fence_floor  in us. The new fencing token is higher
-- Returns {1, fencing token, lease end in ms, ms left}, or {-6, lease end in ms, ms until the next attempt can
-- succeed}.
-- Verdicts: 1 done   -6 claimed
-- A token that holds the lock gets the same grant again. A token in the queue keeps its position.
-- Why atomic: a script runs alone. It decides first and writes last, because nothing rolls back.

local name, lease_ms, position_ms = ARGV[4], ARGV[5], ARGV[6]
local queues, fence_floor = ARGV[7], ARGV[8]

--@include lib/fencing_retention
--@include lib/lock

if is_holder then return {1, stored[1], stored[2], whole(lease_end - now)} end
remove_lapsed_waiters()
local rank = waiter_count > 0 and call('ZRANK', KEYS[2], token)
local ahead = rank or waiter_count
local free_at = lease_end + math.ceil(ahead * position_ms / 4)
if now >= free_at then
  fencing_token = whole(math.max(time[1] * 1000000 + time[2], fencing_token + 1, fence_floor + 1))
  lease_end = now + lease_ms
  -- ZREM and HDEL are allowed at maxmemory, and after a script's first write the server no longer rejects
  -- OOM commands. So this also works when memory is full.
  if rank then remove_waiter(token) end
  call('HSET', KEYS[1], 'fence', fencing_token, 'lease', whole(lease_end), 'start', whole(now), 'by', token,
    'name', name)
  set_expiry()
  return {1, fencing_token, whole(lease_end), whole(lease_end - now)}
end
if queues == '1' then
  local position_end = now + position_ms
  queue_end = math.max(queue_end, position_end)
  if rank then
    -- PEXPIREAT is allowed at maxmemory, and after a script's first write the server no longer rejects OOM
    -- commands. So this also works when memory is full.
    call('PEXPIREAT', KEYS[2], last_ms(math.max(lease_end, queue_end)))
  else
    local last = call('ZRANGE', KEYS[2], '-1', '-1', 'WITHSCORES')
    call('ZADD', KEYS[2], whole((tonumber(last[2]) or 0) + 1), token)
    waiter_count = waiter_count + 1
  end
  call('HSET', KEYS[1], 'w:' .. token, whole(position_end), 'kept', whole(queue_end))
  set_expiry()
end
return {-6, whole(lease_end), whole(free_at - now)}
