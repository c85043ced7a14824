-- Start of the scripts on locks: reads the lock, and sets and removes its parts.
--
-- KEYS  1 lock    HASH  fence      fencing token of the newest grant, at least the time in us
--                       lease      when its lease ends (ms since the epoch): from then on the lock is free
--                       by         token of the holder, absent after a release
--                       name       name of the holder, for people, absent after a release
--                       kept       when the last queue position lapses (ms since the epoch), present
--                                  while the queue has waiters
--                       w:<token>  when the queue position of this waiter lapses (ms since the epoch)
--       2 queue   ZSET  token of a waiter -> ticket, higher for a later waiter
-- ARGV  1 operation_id     names this call. Not used here, because the token names it as well
--       2 ambiguous_since  since when an earlier attempt may have been executed (ms since the epoch on
--                          this server's clock, with a fraction), '' if there was none
--       3 token            of the caller
--
-- Reads: KEYS 1-2, ARGV 2-3.
-- Sets: KEYS ARGV call ambiguous_since token time now, stored (fields fence lease by kept), fencing_token, lease_end,
--    queue_end, is_holder.
-- Functions: whole, remove_waiter, remove_lapsed_waiters, last_ms, set_expiry.
-- Verdicts: 1 done   -6 claimed   -8 lease lost
--
-- A lock without an entry is free. Both keys end with the last lease and the last queue position, or
-- earlier if both were released. A free lock with waiters is reserved for each waiter in turn, for a
-- quarter of the position time. This skips dead waiters, and their positions are removed when they lapse.
--
-- Why atomic: a script runs alone. A repeated call finds the grant to its token and returns it again.

local KEYS, ARGV, call = KEYS, ARGV, redis.call
local ambiguous_since, token = ARGV[2], ARGV[3]

local time = call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local stored = call('HMGET', KEYS[1], 'fence', 'lease', 'by', 'kept')
local fencing_token, lease_end = tonumber(stored[1]) or 0, tonumber(stored[2]) or 0
local queue_end = tonumber(stored[4]) or 0
-- A released lock stays free, also if the server's clock was set back after the release.
if not stored[3] then lease_end = math.min(lease_end, now) end
local is_holder = stored[3] == token and now < lease_end
call('ZCARD', KEYS[2])  -- fails before the first write if the key holds another type of value

-- Numbers of us have more digits than Lua writes by default (LUA_NUMBER_FMT is %.14g).
local function whole(number)
  return string.format('%.0f', number)
end

local function remove_waiter(waiter)
  call('ZREM', KEYS[2], waiter)
  call('HDEL', KEYS[1], 'w:' .. waiter)
end

-- Remove the lapsed queue positions among the first 64, except the caller's.
local function remove_lapsed_waiters()
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

-- Set when the keys expire: with the last lease or queue position. Delete them if there is neither.
local function set_expiry()
  if call('ZCARD', KEYS[2]) == 0 then
    queue_end = 0
    call('HDEL', KEYS[1], 'kept')
  end
  local end_ms = math.max(lease_end, queue_end)
  if end_ms <= now then
    call('DEL', KEYS[1], KEYS[2])
  else
    call('PEXPIREAT', KEYS[1], last_ms(end_ms))
    call('PEXPIREAT', KEYS[2], last_ms(end_ms))
  end
end
