-- Take a place's pin away; its placement's life begins anew, or ends if it was given to nobody yet.
--
-- KEYS, ARGV 1-3, why atomic: see lib/affinity.
-- ARGV  4 place
--       5 ttl    ms: the placement's life
-- Returns {1}, or {0} if it was not pinned.

--@include lib/affinity
--@include lib/assignments

if is_done then return {1} end
local worker, pin = placed(ARGV[4])
if not pin or pin == '' then return {0} end
though_full()
if worker == '' then drop(ARGV[4]) else keep(ARGV[4], worker, '', ARGV[5]) end
remember()
return {1}
