-- Take the turn at a session's mail, and read its state.
--
-- KEYS, ARGV 1-3, why atomic: see lib/mailbox.
-- KEYS  5 dead      LIST  letters that were tried too often: `died:tries:` and the letter; died is ms since the
--                         epoch
-- ARGV  4 by        names this attempt
--       5 worker    who takes it
--       6 lease     ms
--       7 most      letters to hand out; the head alone if it was tried before; none behind one that is not for
--                   the session
--       8 attempts  how often a head may be tried
--       9 bury      1 if a head that has had them, or is not for the session, may go to the dead letters: the
--                   index of these knows of it
--      10 memory    ms to keep dead letters
--      11 keep      ms to keep the rings of an empty box
--      12 floor     us: the fence is to be higher
-- Returns {1, fence, lease end in ms, ms left, tries, version, incarnation, owner, life, at, body, letter, ...},
-- the six of the session '' if there is none; or {-6, ms until it may be taken}.
-- Verdicts: 1 done   0 no mail   -6 in hand, or at rest   -10 the head is to be buried
-- A repeated call finds its own attempt: what it did is not done again.

-- Whose a letter is.

local LOG_FIELD = 'ops'

--@include lib/record
--@include lib/operation_log
--@include lib/mailbox

local function whose(letter)
  local _, last, length = string.find(letter, '^%d+:(%d+):')
  return last and string.sub(letter, last + 1, last + length)
end

-- The fence, as inbox/admit judges it, for a session that came to be since: see fence.py.
local function admits(admitter)
  return not live or not admitter or owner == admitter or owner == string.match(admitter, '^[^/]*/')
end

if not (held and by == ARGV[4]) then
  if held then return {-6, text(leased - now)} end
  if rest > now then return {-6, text(rest - now)} end
  while waiting > 0 and (tries >= tonumber(ARGV[8]) or not admits(whose(call('LINDEX', KEYS[4], '0')))) do
    if ARGV[9] == '' then return {-10} end
    call('LLEN', KEYS[5])  -- should another type stand there, fail here
    -- Nothing refuses LPOP, and once a script has written, the server lets it finish. So mail is taken, and
    -- memory freed, when memory is full.
    local letter = call('LPOP', KEYS[4])
    call('RPUSH', KEYS[5], text(now) .. ':' .. text(tries) .. ':' .. letter)
    call('PEXPIREAT', KEYS[5], text(now + ARGV[10] - 1))
    local oldest = string.match(call('LINDEX', KEYS[5], '0'), '^%d+')
    while now >= oldest + ARGV[10] do  -- it ends with the one of now
      call('LPOP', KEYS[5])
      oldest = string.match(call('LINDEX', KEYS[5], '0'), '^%d+')
    end
    waiting, tries = waiting - 1, 0
  end
  if waiting == 0 then
    if told[1] then tidy(ARGV[11]) end
    return {0}
  end
  call('HDEL', KEYS[3], 'rest', 'done')  -- not refused either
  tries = tries + 1
  fence = string.format('%.0f', math.max(time[1] * 1000000 + time[2], fence + 1, ARGV[12] + 1))
  leased, held = now + ARGV[6], true
  call('HSET', KEYS[3], 'fence', fence, 'lease', text(leased), 'by', ARGV[4], 'worker', ARGV[5],
    'tries', text(tries))
  tidy(ARGV[11])
end
local body = live and call('HGET', KEYS[1], 'body') or ''
local answer = {1, fence, text(leased), text(leased - now), text(tries)}
if live then
  for _, part in ipairs({version, incarnation or '', owner or '', ttl or '', stored[5] or '', body}) do
    answer[#answer + 1] = part
  end
else
  for _ = 1, 6 do answer[#answer + 1] = '' end
end
local letters = call('LRANGE', KEYS[4], '0', tries > 1 and '0' or text(ARGV[7] - 1))
local first = whose(letters[1] or '')
for _, letter in ipairs(letters) do
  local admitter = whose(letter)
  -- Whose session it will be is not known where there is none: so one caller's mail at a time.
  if admitter ~= first and (not live or not admits(admitter)) then break end
  answer[#answer + 1] = letter
end
return answer
