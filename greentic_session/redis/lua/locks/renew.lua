-- Let the lease of the token that holds a lock end later, never sooner.
--
-- KEYS, ARGV 1-3, why atomic: see lib/lock.
-- ARGV  4 lease   ms from now
-- Returns {1, lease end in ms, ms left}.
-- Verdicts: 1 done   -8 lease lost. A repeated call renews again.

--@include lib/lock

if not holds then return {-8} end
lease = math.max(now + ARGV[4], lease)
-- The expiry goes first, so that a lease is renewed when memory is full: see locks/acquire.
call('PEXPIREAT', KEYS[1], last_ms(math.max(lease, kept)))
call('HSET', KEYS[1], 'lease', whole(lease))
see_to_the_end()
return {1, whole(lease), whole(lease - now)}
