-- Renew the lease of the token that holds a lock. A lease never gets shorter.
--
-- KEYS  1 lock     HASH  see lib/lock
--       2 queue    ZSET  see lib/lock
-- ARGV 1-2: see lib/lock.
-- ARGV  3 token     token of the caller
--       4 lease_ms  ms from now
-- Returns {1, lease end in ms, ms left}, or {-8}.
-- Verdicts: 1 done   -8 lease lost
-- A repeated call renews again.
-- Why atomic: a script runs alone. It decides first and writes last, because nothing rolls back.

local lease_ms = ARGV[4]

--@include lib/fencing_retention
--@include lib/lock

if not is_holder then return {-8} end
lease_end = math.max(now + lease_ms, lease_end)
-- PEXPIREAT is allowed at maxmemory, and after a script's first write the server no longer rejects OOM
-- commands. So this also works when memory is full.
set_expiry()
call('HSET', KEYS[1], 'lease', whole(lease_end), 'start', whole(now))
return {1, whole(lease_end), whole(lease_end - now)}
