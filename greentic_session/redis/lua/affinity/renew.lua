-- Renew a member's lease. A lease never gets shorter.
--
-- KEYS  1 ops      ZSET  see lib/affinity
--       2 members  HASH  see lib/affinity
--       3 places   HASH  see lib/affinity
--       4 ends     ZSET  see lib/affinity
-- ARGV 1-2: see lib/affinity.
-- ARGV  3 grace_ms  ms for which done calls are remembered
--       4 worker    name of the worker
--       5 attempt   names the membership
--       6 lease_ms  ms from now
-- Returns {1, fencing token, lease end in ms, ms left}, or {-8}.
-- Verdicts: 1 done   -8 the membership has ended
-- A repeated call renews again.
-- Why atomic: a script runs alone. It decides first and writes last, because nothing rolls back.

local worker, attempt, lease_ms = ARGV[4], ARGV[5], ARGV[6]

--@include lib/affinity
--@include lib/fencing_retention
--@include lib/members

local lease_end, fencing_token, stored_attempt = find_member(worker)
if not lease_end or now >= lease_end or stored_attempt ~= attempt then return {-8} end
begin_at_maxmemory()
return write_member(worker, fencing_token, attempt, math.max(now + lease_ms, lease_end))
