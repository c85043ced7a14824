-- Renew the lease of a turn. A lease never gets shorter.
--
-- KEYS  1 record    HASH  see lib/record
--       2 lookup    HASH  see lib/record
--       3 mailbox   HASH  see lib/mailbox
--       4 messages  LIST  see lib/mailbox
-- ARGV 1-3: see lib/record.
-- ARGV  4 turn_fence  fencing token of the caller's turn
--       5 lease_ms    ms from now
--       6 keep_ms     ms to keep the operation logs of an empty mailbox
-- Returns {1, lease end in ms, ms left}, or {-8}.
-- Verdicts: 1 done   -8 turn lost
-- A repeated call renews again, so the operation log does not record it.
-- Why atomic: a script runs alone. It decides first and writes last, because nothing rolls back.

local turn_fence, lease_ms, keep_ms = ARGV[4], ARGV[5], ARGV[6]
local LOG_FIELD = 'ops'

--@include lib/record
--@include lib/operation_log
--@include lib/mailbox

if not holds_turn(turn_fence) then return {-8} end
lease_end = math.max(now + lease_ms, lease_end)
-- PERSIST and PEXPIREAT are allowed at maxmemory, and after a script's first write the server no longer rejects
-- OOM commands. So this also works when memory is full.
set_mailbox_expiry(keep_ms)
call('HSET', KEYS[3], 'lease', text(lease_end), 'start', text(now))
return {1, text(lease_end), text(lease_end - now)}
