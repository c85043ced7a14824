-- Note that a write of entries has ended: its record is written or refused.
--
-- KEYS  1 guards   ZSET  see finding/add
-- ARGV  1 operation_id     not used, because a repeat has the same effect
--       2 ambiguous_since  not used
-- ARGV 1-2: see above.
-- ARGV  3 session_key  session key, escaped
--       4 token        names the write
--       5 guard_ms     as in finding/add
-- Returns {1}.
-- Verdicts: 1 done
-- Why atomic: a script runs alone.

local session_key, token, guard_ms = ARGV[3], ARGV[4], ARGV[5]

local time = redis.call('TIME')
redis.call('ZREM', KEYS[1], session_key .. '\n' .. token)
redis.call('ZADD', KEYS[1], 'GT', string.format('%.0f', time[1] * 1000000 + time[2]), session_key .. '\n')
redis.call('PEXPIRE', KEYS[1], guard_ms)
return {1}
