-- Put a letter at the end of a session's mail, unless its event is known.
--
-- KEYS, ARGV 1-3, why atomic: see lib/mailbox.
-- KEYS  5 seen     ZSET  id of an event -> when it came (ms since the epoch)
-- ARGV  4 exact    owner whose live session may get it: the caller's own
--       5 shared   owner whose session may get it as well: the caller's team without a user
--       6 event    its id
--       7 letter   without its time, of the owner of ARGV 4: see lib/mailbox
--       8 full     how many letters may wait
--       9 most     how many ids to remember
--      10 memory   ms to remember them
--      11 keep     ms to keep the rings of an empty box
-- Returns {verdict, letters waiting, ms until they may be taken, worker or ''}, of verdict -3 and -5 that only.
-- Verdicts: 1 done   -3 mismatch   -5 unknown   -7 event seen   -9 full
-- A repeated call finds itself in the ring of posts.

local LOG_FIELD = 'ops'

--@include lib/record
--@include lib/operation_log
--@include lib/mailbox
--@include lib/event_set

if find_earlier_attempt(posts) then return told_of_mail(1) end
if live and owner ~= ARGV[4] and owner ~= ARGV[5] then return {-3} end
local at = call('ZSCORE', KEYS[5], ARGV[6])
if at and now < at + ARGV[10] then
  -- By an earlier attempt of this call, perhaps, whose trace is gone.
  if log_overrun(posts) then return {-5} end
  return told_of_mail(-7)
end
if waiting >= tonumber(ARGV[8]) then return told_of_mail(-9) end
-- First of all, since here the server refuses when it is out of memory.
call('RPUSH', KEYS[4], text(now) .. ':' .. ARGV[7])
waiting = waiting + 1
call('HSET', KEYS[3], 'posts', append_to_log(posts, '0'))
tidy(ARGV[11])
call('ZADD', KEYS[5], text(now), ARGV[6])
trim_events(KEYS[5], ARGV[6], ARGV[9], ARGV[10])
call('PEXPIREAT', KEYS[5], text(now + ARGV[10] - 1))
return told_of_mail(1)
