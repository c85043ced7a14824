-- Add a session that is about to have a dead letter to the index of dead letters.
--
-- KEYS  1 index    ZSET  env/tenant/key -> when it was added last (ms since the epoch)
-- ARGV 1-2: as for other scripts. Not used here, because a repeated call is idempotent.
-- ARGV  3 member        the session, env/tenant/key
--       4 retention_ms  ms for which dead letters are kept
-- Returns {1}.
-- Verdicts: 1 done
-- The index entry lives at least as long as the dead letter.
-- Why atomic: a script runs alone.

local member, retention_ms = ARGV[3], ARGV[4]

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
-- ZREM is allowed at maxmemory, and after a script's first write the server no longer rejects OOM commands.
-- So this also works when memory is full.
redis.call('ZREM', KEYS[1], member)
local REMOVED = '8'  -- limit on the old entries that a call removes. A call adds at most one
local old_ms = string.format('%.0f', now - 2 * retention_ms)
for _, old in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', old_ms, 'LIMIT', '0', REMOVED)) do
  redis.call('ZREM', KEYS[1], old)
end
redis.call('ZADD', KEYS[1], string.format('%.0f', now), member)
redis.call('PEXPIRE', KEYS[1], string.format('%.0f', 2 * retention_ms))
return {1}
