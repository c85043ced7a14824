-- Give a turn back, with its mail.
--
-- KEYS, ARGV 1-3, why atomic: see lib/mailbox.
-- ARGV  4 fence   number of the turn, or
--       5 by      the attempt that took it, should the caller not know the number; else ''
--       6 rest    ms until the head may be tried again; '' if this was no attempt at it
--       7 keep    ms to keep the rings of an empty box
-- Returns {1, letters waiting}.
-- Verdicts: 1 done   -5 unknown   -8 turn lost. A repeated call finds itself in the box's ring.

local LOG_FIELD = 'ops'

--@include lib/record
--@include lib/operation_log
--@include lib/mailbox

if find_earlier_attempt(own) then return {1, text(waiting)} end
if not holds(ARGV[4]) and not (held and by == ARGV[5]) then return lost() end
held = false
call('HDEL', KEYS[3], 'lease', 'by', 'worker', 'done')  -- first, since nothing refuses it
if ARGV[6] == '' then
  tries = math.max(0, tries - 1)
elseif ARGV[6] ~= '0' then
  call('HSET', KEYS[3], 'rest', text(now + ARGV[6]))
end
call('HSET', KEYS[3], 'ops', append_to_log(own, '0'), 'tries', text(tries))
tidy(ARGV[7])
return {1, text(waiting)}
