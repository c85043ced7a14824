-- Begin a placement's life anew.
--
-- KEYS, ARGV 1-3, why atomic: see lib/affinity.
-- ARGV  4 place
--       5 ttl    ms: its new life; '' keeps the length
-- Returns {1}, or {0} if it is not there.

--@include lib/affinity
--@include lib/assignments

if is_done then return {1} end
local worker, pin, ttl = placed(ARGV[4])
if not worker then return {0} end
though_full()
keep(ARGV[4], worker, pin, ARGV[5] == '' and ttl or ARGV[5])
remember()
return {1}
