-- Let be due again what a caller was given to look at, who did not hear of it and will not look; and wake who waits.
--
-- KEYS, ARGV 1-2, why atomic: see lib/inbox_index.
-- ARGV  3 visit    ms by which it was put off, as in inbox/index_next_due
--       4 age      ms since the caller asked, or more
--       5 channel  to tell of it
-- Returns {1}. The last few that were put off since he asked are due: which one he was given, nobody knows.

--@include lib/inbox_index

recall_since(now - ARGV[4], '32')
redis.pcall('PUBLISH', ARGV[5], '1')
return {1}
