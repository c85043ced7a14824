-- Start of the scripts on locks: reads the lock, and sets and removes its parts. Include it after
-- lib/fencing_retention.
--
-- KEYS  1 lock    HASH  fence      fencing token of the newest grant, at least the time in us
--                       lease      when its lease ends (ms since the epoch). From then on the lock is free. After
--                                  a release with waiters, this is the time of the release
--                       start      when the lease was granted or renewed last (ms since the epoch). A worker of an
--                                  earlier version does not write it
--                       by         token of the holder, absent after a release
--                       name       name of the holder, for people, absent after a release
--                       kept       when the last queue position lapses (ms since the epoch). Present
--                                  while the queue has waiters
--                       w:<token>  when the queue position of this waiter lapses (ms since the epoch)
--       2 queue   ZSET  token of a waiter -> ticket, higher for a later waiter
-- ARGV  1 operation_id     names this call. Not used here, because the token identifies the call as well
--       2 ambiguous_since  since when an earlier attempt may have been executed (ms since the epoch on
--                          this server's clock, with a fraction), '' if there was none
--       3 token            token of the caller
--
-- Reads: KEYS 1-2, ARGV 2-3.
-- Sets: KEYS ARGV call ambiguous_since token time now, stored (fields fence lease by kept start), fencing_token,
--    lease_end, queue_end, waiter_count, is_holder.
-- Functions: whole, remove_waiter, remove_lapsed_waiters, last_ms, set_expiry.
-- Verdicts: 1 done   -6 claimed   -8 lease lost
--
-- A lock without an entry, or with only a fencing token, is free. The queue lives as long as the last lease and the
-- last queue position, or shorter if both were released. The entry keeps its fencing token longer: see
-- lib/fencing_retention.
--
-- A free lock with waiters is reserved for each waiter in turn, for a quarter of the position time. So dead waiters are
-- skipped, and their positions are removed when they lapse.
--
-- If a lease started or was released in the future, the clock was set back. Then all ends of the lock are moved back by
-- the difference. So a dead holder's lease ends at most one length after a script notices. A live holder renews in that
-- time.
--
-- Why atomic: a script runs alone. A repeated call finds the grant to its token and returns it again.

local KEYS, ARGV, call = KEYS, ARGV, redis.call
local ambiguous_since, token = ARGV[2], ARGV[3]

local time = call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local stored = call('HMGET', KEYS[1], 'fence', 'lease', 'by', 'kept', 'start')
local fencing_token, lease_end = tonumber(stored[1]) or 0, tonumber(stored[2]) or 0
local queue_end = tonumber(stored[4]) or 0
local waiter_count = call('ZCARD', KEYS[2])  -- fails before the first write if the key holds another type of value

-- A time in us has more digits than Lua writes by default (LUA_NUMBER_FMT is %.14g).
local function whole(number)
  return string.format('%.0f', number)
end

local start = tonumber(stored[5]) or 0
local back_ms = (stored[3] and (lease_end > start and start or 0) or lease_end) - now
if back_ms > 0 then
  lease_end, queue_end = lease_end - back_ms, queue_end - back_ms
  -- HDEL is allowed at maxmemory, and after a script's first write the server no longer rejects OOM commands. So this
  -- also works when memory is full.
  call('HDEL', KEYS[1], '')
  call('HSET', KEYS[1], 'lease', whole(lease_end), 'start', whole(now))
  if stored[4] then call('HSET', KEYS[1], 'kept', whole(queue_end)) end
  for _, waiter in ipairs(call('ZRANGE', KEYS[2], '0', '-1')) do
    local position_end = tonumber(call('HGET', KEYS[1], 'w:' .. waiter)) or 0
    call('HSET', KEYS[1], 'w:' .. waiter, whole(position_end - back_ms))
  end
end
local is_holder = stored[3] == token and now < lease_end

local function remove_waiter(waiter)
  call('ZREM', KEYS[2], waiter)
  call('HDEL', KEYS[1], 'w:' .. waiter)
  waiter_count = waiter_count - 1
end

-- Removes every queue position if all have lapsed. The server may have removed the queue already.
local function remove_lapsed_queue()
  if not stored[4] or now < queue_end then return end
  local all = call('HGETALL', KEYS[1])
  for i = 1, #all, 2 do
    if string.sub(all[i], 1, 2) == 'w:' then call('HDEL', KEYS[1], all[i]) end
  end
  call('DEL', KEYS[2])
  waiter_count = 0
end

-- Removes the lapsed queue positions among the first 64, except the caller's.
local function remove_lapsed_waiters()
  remove_lapsed_queue()
  if waiter_count == 0 then return end
  local first = call('ZRANGE', KEYS[2], '0', '63')
  for _, waiter in ipairs(first) do
    local position_end = tonumber(call('HGET', KEYS[1], 'w:' .. waiter)) or 0
    if now >= position_end and waiter ~= token then remove_waiter(waiter) end
  end
end

-- The expiry time of a key that is needed until `end_ms`. The server removes a key when now > its time,
-- and immediately if that time has passed. So a key of the last ms lives for one more ms.
local function last_ms(end_ms)
  return whole(math.max(end_ms - 1, now + 1))
end

-- Sets when the keys expire. The queue expires with the last lease or queue position, and the lock not before its
-- fencing token. Without a lease and without a queue position, only the fencing token stays.
local function set_expiry()
  if waiter_count == 0 then
    queue_end = 0
    if stored[4] then call('HDEL', KEYS[1], 'kept') end
  end
  local end_ms = math.max(lease_end, queue_end)
  local kept_until = retention_end(fencing_token, now)
  if end_ms > now then
    call('PEXPIREAT', KEYS[1], last_ms(math.max(end_ms, kept_until)))
    if waiter_count > 0 then call('PEXPIREAT', KEYS[2], last_ms(end_ms)) end
  elseif kept_until > now then
    call('HDEL', KEYS[1], 'lease', 'start', 'by', 'name')
    call('PEXPIREAT', KEYS[1], last_ms(kept_until))
  else
    call('DEL', KEYS[1])
  end
end
