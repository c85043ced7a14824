-- Record the number of shards of a set of timers, unless it is recorded already.
--
-- KEYS  1 shards  STRING  the number of shards. It stays for as long as the namespace
-- ARGV 1-2: as for other scripts. Not used here, because a repeated call is idempotent.
-- ARGV  3 count  the number of shards
-- Returns {1, the recorded number}.
-- Verdicts: 1 done
-- Why atomic: a script runs alone.

local count = ARGV[3]

local stored = redis.call('GET', KEYS[1])
if not stored then
  redis.call('SET', KEYS[1], count)
  stored = count
end
return {1, stored}
