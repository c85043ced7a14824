-- Shared start of the scripts on locks. A script is put together by scripts.py from texts like this one,
-- which run one after the other and share their locals.
--
-- KEYS  1 lock    HASH  fence   number of the newest grant, at least the time in us
--                       lease   when its lease ends (ms since the epoch): the lock is free from then on
--                       by      token of the holder, and name, for people; gone when it was given back
--                       kept    when the last place of the queue lapses (ms since the epoch), and for
--                               each that waits w:<token>, when its own does; there while some wait
--       2 queue   ZSET  token -> ticket, of those who wait; higher for who came later
-- ARGV  1 op      names this call; of no use here, since the token does so
--       2 doubt   since when an earlier attempt may have been executed (ms since the epoch on this
--                 server's clock, with a fraction); '' if none was
--       3 token   of the caller
--
-- Verdicts: 1 done   -6 claimed   -8 lease lost
--
-- A lock without an entry is free. Both names end with the last lease and the last place, and sooner when
-- both were given back. A lock that is free while some wait is left to each of them for a while, in
-- their order: those who died are passed over so, and forgotten when their places lapse.
--
-- Why atomic: a script runs alone. A repeated call finds what its token was given, and is told so.

local KEYS, ARGV, call = KEYS, ARGV, redis.call
local doubt, token = ARGV[2], ARGV[3]

local time = call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local told = call('HMGET', KEYS[1], 'fence', 'lease', 'by', 'kept')
local fence, lease = tonumber(told[1]) or 0, tonumber(told[2]) or 0
local kept = tonumber(told[4]) or 0
-- What was given back is free from then on, also where the clock was set back since.
if not told[3] then lease = math.min(lease, now) end
local holds = told[3] == token and now < lease
call('ZCARD', KEYS[2])  -- should another type stand there, fail here

-- Numbers of us have more digits than Lua writes by itself (LUAI_NUMFFORMAT is %.14g).
local function whole(number)
  return string.format('%.0f', number)
end

local function forget(waiter)
  call('ZREM', KEYS[2], waiter)
  call('HDEL', KEYS[1], 'w:' .. waiter)
end

-- The places of those who have not asked for too long, but for the caller's; as many as one call may bear.
local function forget_lapsed()
  local first = call('ZRANGE', KEYS[2], '0', '63')
  for _, waiter in ipairs(first) do
    local ends = tonumber(call('HGET', KEYS[1], 'w:' .. waiter)) or 0
    if now >= ends and waiter ~= token then forget(waiter) end
  end
end

-- The time with which a name ends that is of use until then. The server removes one when now > its time,
-- and at once if that is not to come: so a name of the last ms lives for another one.
local function last_ms(ends)
  return whole(math.max(ends - 1, now + 1))
end

-- Let the entry end when nobody holds the lock or has a place any more.
local function see_to_the_end()
  if call('ZCARD', KEYS[2]) == 0 then
    kept = 0
    call('HDEL', KEYS[1], 'kept')
  end
  local ends = math.max(lease, kept)
  if ends <= now then
    call('DEL', KEYS[1], KEYS[2])
  else
    call('PEXPIREAT', KEYS[1], last_ms(ends))
    call('PEXPIREAT', KEYS[2], last_ms(ends))
  end
end
