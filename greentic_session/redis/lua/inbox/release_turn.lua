-- Release a turn. Its messages stay in the mailbox.
--
-- KEYS  1 record    HASH  see lib/record
--       2 lookup    HASH  see lib/record
--       3 mailbox   HASH  see lib/mailbox
--       4 messages  LIST  see lib/mailbox
-- ARGV 1-3: see lib/record.
-- ARGV  4 turn_fence      fencing token of the caller's turn, '' if the caller does not know it
--       5 taking_attempt  the attempt that took the turn, '' if the caller knows the fencing token
--       6 backoff_ms      ms until the next attempt at the head, '' if this was not an attempt
--       7 keep_ms         ms to keep the operation logs of an empty mailbox
-- Returns {1, message count}, or {verdict}.
-- Verdicts: 1 done   -5 unknown   -8 turn lost
-- A repeated call finds its operation id in the log ops.
-- Why atomic: a script runs alone. It decides first and writes last, because nothing rolls back.

local turn_fence, taking_attempt, backoff_ms, keep_ms = ARGV[4], ARGV[5], ARGV[6], ARGV[7]
local LOG_FIELD = 'ops'

--@include lib/record
--@include lib/operation_log
--@include lib/mailbox

if find_earlier_attempt(turn_log) then return {1, text(message_count)} end
if not holds_turn(turn_fence) and not (is_held and turn_attempt == taking_attempt) then return lost_reply() end
is_held = false
-- HDEL is allowed at maxmemory, and after a script's first write the server no longer rejects OOM commands.
-- So this also works when memory is full.
call('HDEL', KEYS[3], 'lease', 'start', 'by', 'worker', 'done')
if backoff_ms == '' then
  attempts = math.max(0, attempts - 1)
elseif backoff_ms ~= '0' then
  call('HSET', KEYS[3], 'rest', text(now + backoff_ms), 'start', text(now))
end
call('HSET', KEYS[3], 'ops', append_to_log(turn_log, '0'), 'tries', text(attempts))
set_mailbox_expiry(keep_ms)
return {1, text(message_count)}
