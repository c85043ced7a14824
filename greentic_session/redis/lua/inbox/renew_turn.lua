-- Let the lease of a turn end later.
--
-- KEYS, ARGV 1-3, why atomic: see lib/mailbox.
-- ARGV  4 fence   number of the turn
--       5 lease   ms from now
--       6 keep    ms to keep the rings of an empty box
-- Returns {1, lease end in ms, ms left}.
-- Verdicts: 1 done   -8 turn lost. A repeated call renews again, so no trace of it is kept.

local LOG_FIELD = 'ops'

--@include lib/record
--@include lib/operation_log
--@include lib/mailbox

if not holds(ARGV[4]) then return {-8} end
leased = math.max(now + ARGV[5], leased)
tidy(ARGV[6])  -- first, since nothing refuses it: so a turn is kept when memory is full
call('HSET', KEYS[3], 'lease', text(leased))
return {1, text(leased), text(leased - now)}
