-- Restart a placement's lifetime.
--
-- KEYS  1 ops      ZSET  see lib/affinity
--       2 members  HASH  see lib/affinity
--       3 places   HASH  see lib/affinity
--       4 ends     ZSET  see lib/affinity
-- ARGV 1-2: see lib/affinity.
-- ARGV  3 grace_ms  ms for which done calls are remembered
--       4 key       see lib/affinity
--       5 ttl_ms    new lifetime in ms, '' keeps the stored one
-- Returns {verdict}.
-- Verdicts: 1 done   0 absent   -5 unknown
-- A repeated call finds its operation id in ops.
-- Why atomic: a script runs alone. It decides first and writes last, because nothing rolls back.

local key, ttl_ms = ARGV[4], ARGV[5]

--@include lib/affinity
--@include lib/assignments

if is_done then return {1} end
if is_forgotten then return {-5} end
local worker, pin, stored_ttl_ms = find_placement(key)
if not worker then return {0} end
begin_at_maxmemory()
write_placement(key, worker, pin, ttl_ms == '' and stored_ttl_ms or ttl_ms)
remember()
return {1}
