-- Put a dead letter at the end of its mailbox, as a new one.
--
-- KEYS, ARGV 1-3, why atomic: see lib/mailbox.
-- KEYS  5 dead     LIST  see inbox/take_turn
-- ARGV  4 entry    the dead letter, as it stands there
--       5 letter   without its time: the end of it
--       6 died     ms since the epoch: the start of it
--       7 memory   ms for which dead letters are kept
--       8 full     how many letters may wait
--       9 keep     ms to keep the rings of an empty box
-- Returns as inbox/admit does; of verdict 0 and -5 that only.
-- Verdicts: 1 done   0 absent   -5 unknown   -9 full. A repeated call finds itself in the ring of posts.

local LOG_FIELD = 'ops'

--@include lib/record
--@include lib/operation_log
--@include lib/mailbox

if find_earlier_attempt(posts) then return told_of_mail(1) end
if now >= ARGV[6] + ARGV[7] or not call('LPOS', KEYS[5], ARGV[4]) then
  return {log_overrun(posts) and -5 or 0}
end
if waiting >= tonumber(ARGV[8]) then return told_of_mail(-9) end
-- First of all, since here the server refuses when it is out of memory.
call('RPUSH', KEYS[4], text(now) .. ':' .. ARGV[5])
call('LREM', KEYS[5], '1', ARGV[4])
waiting = waiting + 1
call('HSET', KEYS[3], 'posts', append_to_log(posts, '0'))
tidy(ARGV[9])
return told_of_mail(1)
