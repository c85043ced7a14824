-- Say which session has been due for longest, and let it be due later: somebody looks at it.
--
-- KEYS, ARGV 1-2, why atomic: see agenda.lua.
-- ARGV  3 visit   ms after which it is due again, should its visitor not come to say more
-- Returns {1, member, its new score}, or {0, ms until the next is due}, or {0}.
-- A repeated call gives another one; the one before is due again after its visit.

local first = redis.call('ZRANGE', KEYS[1], '0', '0', 'WITHSCORES')
if not first[1] then return {0} end
if tonumber(first[2]) > now then return {0, string.format('%.0f', math.ceil(first[2] - now))} end
redis.call('ZREM', KEYS[1], first[1])  -- nothing refuses it: so mail is taken when memory is full
local mark = score(now + ARGV[3])
redis.call('ZADD', KEYS[1], mark, first[1])
return {1, first[1], mark}
