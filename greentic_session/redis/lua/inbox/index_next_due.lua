-- Say which session has been due for longest, and let it be due later: somebody looks at it.
--
-- KEYS, ARGV 1-2, why atomic: see lib/inbox_index.
-- ARGV  3 visit   ms after which it is due again, should its visitor not come to say more
-- Returns {1, session, its new score}, or {0, ms until the next is due}, or {0}.
-- A repeated call cannot know which one its earlier attempt was given. So all that were put off since are due
-- at once.

--@include lib/inbox_index

if ARGV[2] ~= '' then recall_since(math.min(ARGV[2] + 0, now), '256') end
local first = redis.call('ZRANGE', KEYS[1], '0', '0', 'WITHSCORES')
if not first[1] then return {0} end
if tonumber(first[2]) > now then return {0, string.format('%.0f', math.ceil(first[2] - now))} end
redis.call('ZREM', KEYS[1], first[1])
local session = expected(first[1]) or first[1]
local mark = score(now + ARGV[3])
redis.call('ZADD', KEYS[1], mark, session)
return {1, session, mark}
