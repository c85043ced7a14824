-- Let the lease of a held claim end later.
--
-- KEYS, ARGV 1-3, returns, why atomic: see record.lua and wait.lua.
-- ARGV  4 fence   number of the claim
--       5 lease   ms from now
-- Returns {1, lease end in ms, ms left, since, scope or '', expiry}.
-- Verdicts: 1 done   -8 claim lost. A repeated call renews again, so no trace of it is kept.

if not holds(ARGV[4]) then return {-8} end
local leased = math.max(now + ARGV[5], lease)
lease = text(leased)
expires, ends = life_from(now, life, lease)
call('HLEN', KEYS[2])  -- should another type stand there, fail here
expire(ends)
call('HSET', KEYS[1], 'lease', lease)
added = call('HSET', KEYS[2], field, ends)
reply = told_to_index({1, lease, text(leased - now)}, expires)
