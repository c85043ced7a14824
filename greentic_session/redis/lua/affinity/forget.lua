-- Remove a placement, pin and all.
--
-- KEYS, ARGV 1-3, why atomic: see lib/affinity.
-- ARGV  4 place
-- Returns {1}, or {0} if it is not there.

--@include lib/affinity
--@include lib/assignments

if is_done then return {1} end
if not placed(ARGV[4]) then return {0} end
drop(ARGV[4])
remember()
return {1}
