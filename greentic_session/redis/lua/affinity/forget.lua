-- Remove a placement and its pin.
--
-- KEYS  1 ops      ZSET  see lib/affinity
--       2 members  HASH  see lib/affinity
--       3 places   HASH  see lib/affinity
--       4 ends     ZSET  see lib/affinity
-- ARGV 1-2: see lib/affinity.
-- ARGV  3 grace_ms  ms for which done calls are remembered
--       4 key       see lib/affinity
-- Returns {verdict}.
-- Verdicts: 1 done   0 absent   -5 unknown
-- A repeated call finds its operation id in ops.
-- Why atomic: a script runs alone. It decides first and writes last, because nothing rolls back.

local key = ARGV[4]

--@include lib/affinity
--@include lib/assignments

if is_done then return {1} end
if is_forgotten then return {-5} end
if not find_placement(key) then return {0} end
remove_placement(key)
remember()
return {1}
