-- Let the lease of a held claim end later.
--
-- KEYS, ARGV 1-3, returns, why atomic: see lib/record and lib/wait_state.
-- ARGV  4 fence   number of the claim
--       5 lease   ms from now
-- Returns {1, lease end in ms, ms left, since, scope or '', expiry}.
-- Verdicts: 1 done   -8 claim lost. A repeated call renews again, so no trace of it is kept.

local RING = 'ops'

--@include lib/record
--@include lib/operation_log
--@include lib/event_set
--@include lib/wait_state

if not holds(ARGV[4]) then return {-8} end
local leased = math.max(now + ARGV[5], lease)
lease = text(leased)
expires, ends = life_from(now, life, lease)
call('HLEN', KEYS[2])  -- should another type stand there, fail here
expire(ends)
call('HSET', KEYS[1], 'lease', lease)
added = call('HSET', KEYS[2], field, ends)
reply = told_to_index({1, lease, text(leased - now)}, expires)

--@include lib/update_lookup_ttl

return reply
