-- End a membership.
--
-- KEYS  1 ops      ZSET  see lib/affinity
--       2 members  HASH  see lib/affinity
--       3 places   HASH  see lib/affinity
--       4 ends     ZSET  see lib/affinity
-- ARGV 1-2: see lib/affinity.
-- ARGV  3 grace_ms  ms for which done calls are remembered
--       4 worker    name of the worker
--       5 attempt   names the membership
-- Returns {verdict}.
-- Verdicts: 1 done   -8 the membership has ended   -5 unknown
-- A repeated call finds its operation id in ops.
-- Why atomic: a script runs alone. It decides first and writes last, because nothing rolls back.

local worker, attempt = ARGV[4], ARGV[5]

--@include lib/affinity
--@include lib/fencing_retention
--@include lib/members

if is_done then return {1} end
if is_forgotten then return {-5} end
local lease_end, _, stored_attempt = find_member(worker)
if not lease_end or now >= lease_end or stored_attempt ~= attempt then return {-8} end
call('HDEL', KEYS[2], worker)
sweep_members(0)
remember()
return {1}
