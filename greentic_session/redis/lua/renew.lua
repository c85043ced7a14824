-- Let the lease of a held claim end later.
--
-- KEYS, ARGV 1-3, returns, why atomic: see record.lua and wait.lua.
-- ARGV  4 fence   number of the claim
--       5 lease   ms from now
-- Returns {1, lease end in ms, ms left, since, scope or '', expiry}.
-- Verdicts: 1 done   -8 claim lost. A repeated call renews again, so no trace of it is kept.

if not holds(ARGV[4]) then return {-8} end
local ends = math.max(now + ARGV[5], lease)
lease = text(ends)
local expires, size = expiry(life), lookup_size()
expire(KEYS[1], expires)
redis.call('HSET', KEYS[1], 'lease', lease)
mirror(expires, size)
return told_to_index({1, lease, text(ends - now)}, expires)
