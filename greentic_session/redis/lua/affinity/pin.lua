-- Pin a place to a worker, member or not; its placement's life begins anew.
--
-- KEYS, ARGV 1-3, why atomic: see lib/affinity.
-- ARGV  4 place
--       5 worker
--       6 ttl     ms: the placement's life
-- Returns {1}.

--@include lib/affinity
--@include lib/assignments

if is_done then return {1} end
keep(ARGV[4], placed(ARGV[4]) or '', ARGV[5], ARGV[6])
remember()
return {1}
