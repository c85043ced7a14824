-- Shared start of the scripts on a session's mailbox; put after lib/record and lib/operation_log.
--
-- KEYS  1 record, 2 lookup: see lib/record
--       3 box    HASH  fence lease by worker tries rest done ops posts
--       4 mail   LIST  letters, the head first: `at:length:owner length:id payload` without the blanks; at is ms
--                      since the epoch, owner the team/user of who admitted it, length that of what follows in bytes
--       5        each script's own
-- ARGV  1 op, 2 doubt, 3 field: see lib/record
--
-- Fields of the box:
--    fence    number of the newest turn. Never less than the time in us, so it grows on even when the box is
--             gone, or the server comes back without its data
--    lease    ms since the epoch: when the turn's lease ends; there while a turn is held
--    by       names the attempt that took the turn
--    worker   who has it, for people
--    tries    how often the head was tried, the turn that is held included
--    rest     ms since the epoch: the head is not to be tried before; there after a failure
--    done     how many letters of the newest turn have gone; 0 if it is not there
--    ops      the ring of the steps of who has the turn, posts that of the others: see lib/record
-- A box without mail and lease keeps its rings for a while, so that a later attempt of a call finds its
-- answer, and goes then.
--
-- Verdicts, beside those of lib/record: -9 full. Why atomic: a script runs alone.

local told = call('HMGET', KEYS[3], 'fence', 'lease', 'by', 'worker', 'tries', 'rest', 'done', 'ops', 'posts')
local fence, leased, by, worker = told[1] or '0', tonumber(told[2] or 0), told[3], told[4] or ''
local tries, rest, done = tonumber(told[5] or 0), tonumber(told[6] or 0), tonumber(told[7] or 0)
local own, posts = told[8] or '', told[9] or ''
local held = now < leased
local waiting = call('LLEN', KEYS[4])

local function holds(number)
  return held and fence == number
end

-- The verdict on a call whose turn is not held: an earlier attempt may have ended it, and its trace be gone.
local function lost()
  return {ambiguous_since ~= '' and (not told[1] or log_overrun(own)) and -5 or -8}
end

-- Let the box end when it has neither mail nor a lease; put last.
local function tidy(kept)
  if waiting > 0 then
    call('PERSIST', KEYS[3])
  elseif held then  -- should its worker die, nobody comes to look
    call('PEXPIREAT', KEYS[3], text(leased + kept))
  else
    call('HDEL', KEYS[3], 'lease', 'by', 'worker', 'tries', 'rest', 'done')
    call('PEXPIRE', KEYS[3], kept)
  end
end

-- What the index has to be told of mail that came: how much there is, in how many ms it may be taken, and
-- who has it in hand.
local function told_of_mail(verdict)
  local free = math.max(0, (held and leased or rest) - now)
  return {verdict, text(waiting), text(free), held and worker or ''}
end
