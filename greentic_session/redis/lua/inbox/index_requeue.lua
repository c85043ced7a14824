-- Requeue the sessions that were deferred for a cancelled caller, and notify the waiters.
--
-- KEYS  1 index    ZSET  see lib/inbox_index
--       2 tenant   ZSET  see lib/inbox_index. Absent in a call for all tenants
-- ARGV 1-2: see lib/inbox_index.
-- ARGV  3 defer_ms  ms by which the sessions were deferred, as in inbox/index_next_due
--       4 age_ms    ms since the caller's request, or more
--       5 channel   channel of the notification
--       6 tenant_channel  channel of the tenant's notification, '' for none
-- Returns {1}.
-- Verdicts: 1 done
-- The caller does not know which session it got. So the last 32 sessions deferred since its request become due.
-- A repeated call is harmless. At worst, a worker finds a held turn.
-- Why atomic: a script runs alone.

local defer_ms, age_ms, channel, tenant_channel = ARGV[3], ARGV[4], ARGV[5], ARGV[6]

--@include lib/inbox_index

requeue_deferred_since(now - age_ms, defer_ms, '32')
redis.pcall('PUBLISH', channel, '1')
if tenant_channel ~= '' then redis.pcall('PUBLISH', tenant_channel, '1') end
return {1}
