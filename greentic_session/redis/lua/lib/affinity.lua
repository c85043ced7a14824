-- Shared start of the scripts on the workers of a group and the keys that are placed among them.
--
-- KEYS  1 ops      ZSET  op -> when that call was done (ms since the epoch)
--       2 members  HASH  worker -> `ends:fence:attempt`
--       3 places   HASH  place -> `expires:ttl:worker` newline `pin`
--       4 ends     ZSET  place -> expires
-- ARGV  1 op       16 hex digits that name this call, the same on each attempt at it
--       2 doubt    as for other scripts; not needed here: see below
--       3 grace    ms for which done calls are remembered, longer than any call takes
--
--    ends     ms since the epoch: when the member's lease ends; it lives while now < ends
--    fence    us since the epoch when it joined, made to grow from one membership of that name to the next
--    attempt  names the membership
--    place    a key, or env/tenant, newline, key
--    expires  ms since the epoch: the placement is there while now < expires
--    ttl      ms: its life, which begins anew each time it is used
--    worker   the one it was given to last, '' before
--    pin      the one it is pinned to, '' without a pin
--
-- A value of another form counts as absent, and is written over.
--
-- A repeated call: what could be answered otherwise the second time, since the first changed it, leaves
-- its op in ops, and is answered by that. All else (join, renew, assign) comes to the same when it is done
-- again: join and renew know their attempt, assign finds what it has assigned.
--
-- Why atomic: a script runs alone. It judges first and writes last, since nothing rolls back. Whatever
-- a group has bears the group's name in braces, so it is in one slot.

local KEYS, ARGV, call = KEYS, ARGV, redis.call
local time = call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
-- Should another type stand under one of the names, fail here, before anything is written.
local is_done = call('ZSCORE', KEYS[1], ARGV[1])
call('HLEN', KEYS[2])
call('HLEN', KEYS[3])
call('ZCARD', KEYS[4])

-- More digits than Lua writes by itself.
local function whole(number)
  return string.format('%.0f', number)
end

-- The time with which a name ends that is of use until then. The server removes one when now > its time,
-- and at once if that is not to come: so a name of the last ms lives for another one.
local function last_ms(ends)
  return whole(math.max(ends - 1, now + 1))
end

-- Nothing refuses HDEL, and once a script has written, the server lets it finish (Redis docs, "Eval
-- scripts"). So what needs no more memory than there is can be done when that is full.
local function though_full()
  call('HDEL', KEYS[2], '')
end

local function remember()
  call('ZADD', KEYS[1], whole(now), ARGV[1])
  call('ZREMRANGEBYSCORE', KEYS[1], '-inf', whole(now - ARGV[3]))
  call('PEXPIRE', KEYS[1], ARGV[3])
end

-- A member's lease end, fence and attempt; nil if there is none.
local function seat_of(worker)
  local ends, fence, attempt = string.match(call('HGET', KEYS[2], worker) or '', '^(%d+):(%d+):(.*)$')
  return tonumber(ends), fence, attempt
end

local function lives(worker)
  local ends = worker ~= '' and seat_of(worker)
  return ends and now < ends
end
