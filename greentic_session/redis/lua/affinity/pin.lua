-- Pin a key to a worker, which need not be a member, and restart the placement's lifetime.
--
-- KEYS  1 ops      ZSET  see lib/affinity
--       2 members  HASH  see lib/affinity
--       3 places   HASH  see lib/affinity
--       4 ends     ZSET  see lib/affinity
-- ARGV 1-2: see lib/affinity.
-- ARGV  3 grace_ms  ms for which done calls are remembered
--       4 key       see lib/affinity
--       5 worker    name of the worker
--       6 ttl_ms    lifetime of the placement in ms
-- Returns {1}.
-- Verdicts: 1 done   -5 unknown
-- A repeated call finds its operation id in ops.
-- Why atomic: a script runs alone. It decides first and writes last, because nothing rolls back.

local key, worker, ttl_ms = ARGV[4], ARGV[5], ARGV[6]

--@include lib/affinity
--@include lib/assignments

if is_done then return {1} end
if is_forgotten then return {-5} end
write_placement(key, find_placement(key) or '', worker, ttl_ms)
remember()
return {1}
