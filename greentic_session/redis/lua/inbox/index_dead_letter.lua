-- Enter a session that is about to have a dead letter into the index of these.
--
-- KEYS  1 index    ZSET  env/tenant/key -> when it was entered last (ms since the epoch)
-- ARGV  1, 2       as for other scripts; not needed here: a repeated call comes to the same
--       3 member   the session
--       4 memory   ms to keep dead letters
-- Returns {1}. Why atomic: a script runs alone. The index ends no sooner than the letters.

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', string.format('%.0f', now - 2 * ARGV[4]))
redis.call('ZADD', KEYS[1], string.format('%.0f', now), ARGV[3])
redis.call('PEXPIRE', KEYS[1], string.format('%.0f', 2 * ARGV[4]))
return {1}
