-- Remove a key's pin. Restart the placement's lifetime, or remove it if no worker was assigned.
--
-- KEYS  1 ops      ZSET  see lib/affinity
--       2 members  HASH  see lib/affinity
--       3 places   HASH  see lib/affinity
--       4 ends     ZSET  see lib/affinity
-- ARGV 1-2: see lib/affinity.
-- ARGV  3 grace_ms  ms for which done calls are remembered
--       4 key       see lib/affinity
--       5 ttl_ms    lifetime of the placement in ms
-- Returns {verdict}.
-- Verdicts: 1 done   0 the key was not pinned   -5 unknown
-- A repeated call finds its operation id in ops.
-- Why atomic: a script runs alone. It decides first and writes last, because nothing rolls back.

local key, ttl_ms = ARGV[4], ARGV[5]

--@include lib/affinity
--@include lib/assignments

if is_done then return {1} end
if is_forgotten then return {-5} end
local worker, pin = find_placement(key)
if not pin or pin == '' then return {0} end
begin_at_maxmemory()
if worker == '' then remove_placement(key) else write_placement(key, worker, '', ttl_ms) end
remember()
return {1}
