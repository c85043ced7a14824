-- Remove a dead letter.
--
-- KEYS  1 record    HASH  see lib/record
--       2 lookup    HASH  see lib/record
--       3 mailbox   HASH  see lib/mailbox
--       4 messages  LIST  see lib/mailbox
--       5 dead      LIST  see inbox/take_turn
--       6 headers   HASH  see lib/mailbox
-- ARGV 1-3: see lib/record.
-- ARGV  4 entry    the dead letter as stored
--       5 keep_ms  ms to keep the operation logs of an empty mailbox
-- Returns {verdict}.
-- Verdicts: 1 done   0 absent   -5 unknown
-- A repeated call finds its operation id in the log posts.
-- Why atomic: a script runs alone. It decides first and writes last, because nothing rolls back.

local entry, keep_ms = ARGV[4], ARGV[5]
local LOG_FIELD = 'ops'

--@include lib/record
--@include lib/operation_log
--@include lib/mailbox

if find_earlier_attempt(message_log) then return {1} end
-- A dead letter is usually one of the oldest or newest. The list has a limit, so the search is bounded.
local is_new = call('LPOS', KEYS[5], entry, 'RANK', '-1', 'MAXLEN', '64')
if call('LREM', KEYS[5], is_new and '-1' or '1', entry) == 0 then return {log_overrun(message_log) and -5 or 0} end
redis.pcall('HDEL', KEYS[6], id_of(string.match(entry, '^%d+:%d+:(.*)$') or '') or '')
call('HSET', KEYS[3], 'posts', append_to_log(message_log, '0'))
set_mailbox_expiry(keep_ms)
return {1}
