-- Remove a dead letter.
--
-- KEYS, ARGV 1-3, why atomic: see lib/mailbox.
-- KEYS  5 dead     LIST  see inbox/take_turn
-- ARGV  4 entry    the dead letter, as it stands there
--       5 keep     ms to keep the rings of an empty box
-- Verdicts: 1 done   0 absent   -5 unknown. A repeated call finds itself in the ring of posts.

local LOG_FIELD = 'ops'

--@include lib/record
--@include lib/operation_log
--@include lib/mailbox

if find_earlier_attempt(posts) then return {1} end
if call('LREM', KEYS[5], '1', ARGV[4]) == 0 then return {log_overrun(posts) and -5 or 0} end
call('HSET', KEYS[3], 'posts', append_to_log(posts, '0'))
tidy(ARGV[5])
return {1}
