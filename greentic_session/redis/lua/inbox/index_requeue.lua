-- Make sessions due again that were deferred for a caller that was cancelled, and notify the waiters.
--
-- KEYS  1 index    ZSET  see lib/inbox_index
-- ARGV 1-2: see lib/inbox_index.
-- ARGV  3 defer_ms  ms by which they were deferred, as in inbox/index_next_due
--       4 age_ms    ms since the caller asked, or more
--       5 channel   where to notify
-- Returns {1}.
-- Verdicts: 1 done
-- The caller does not know which session it got. So the last few that were deferred since it asked are due.
-- A repeated call is harmless: at worst a worker finds a held turn.
-- Why atomic: a script runs alone.

local defer_ms, age_ms, channel = ARGV[3], ARGV[4], ARGV[5]

--@include lib/inbox_index

requeue_deferred_since(now - age_ms, defer_ms, '32')
redis.pcall('PUBLISH', channel, '1')
return {1}
