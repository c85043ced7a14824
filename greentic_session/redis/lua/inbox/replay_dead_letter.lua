-- Move a dead letter to the end of its mailbox, as a new message.
--
-- KEYS  1 record    HASH  see lib/record
--       2 lookup    HASH  see lib/record
--       3 mailbox   HASH  see lib/mailbox
--       4 messages  LIST  see lib/mailbox
--       5 dead      LIST  see inbox/take_turn
-- ARGV 1-3: see lib/record.
-- ARGV  4 entry          the dead letter as stored
--       5 message        the end of the entry: the message without its time
--       6 died_ms        the start of the entry: ms since the epoch
--       7 retention_ms   ms for which dead letters are kept
--       8 message_limit  how many messages the mailbox may hold
--       9 keep_ms        ms to keep the operation logs of an empty mailbox
-- Returns {verdict, message count, ms until a turn may be taken, worker or ''}, or {0}, or {-5}.
-- Verdicts: 1 done   0 absent   -5 unknown   -9 full
-- A repeated call finds its operation id in the log posts.
-- Why atomic: a script runs alone. It decides first and writes last, because nothing rolls back.

local entry, message, died_ms, retention_ms = ARGV[4], ARGV[5], ARGV[6], ARGV[7]
local message_limit, keep_ms = ARGV[8], ARGV[9]
local LOG_FIELD = 'ops'

--@include lib/record
--@include lib/operation_log
--@include lib/mailbox

if find_earlier_attempt(message_log) then return mailbox_reply(1) end
-- A dead letter is usually one of the oldest or newest. The list has a limit, so the search is bounded.
local is_new = call('LPOS', KEYS[5], entry, 'RANK', '-1', 'MAXLEN', '64')
if now >= died_ms + retention_ms or not (is_new or call('LPOS', KEYS[5], entry)) then
  return {log_overrun(message_log) and -5 or 0}
end
if message_count >= tonumber(message_limit) then return mailbox_reply(-9) end
-- RPUSH is the first write, because the server rejects it when memory is full.
call('RPUSH', KEYS[4], text(now) .. ':' .. message)
call('LREM', KEYS[5], is_new and '-1' or '1', entry)
message_count = message_count + 1
call('HSET', KEYS[3], 'posts', append_to_log(message_log, '0'))
set_mailbox_expiry(keep_ms)
return mailbox_reply(1)
