-- Start of the scripts on a session's mailbox. Include it after lib/record and lib/operation_log.
--
-- KEYS  1 record, 2 lookup: see lib/record
--       3 mailbox   HASH  fence lease start by worker tries rest done hand ops posts
--       4 messages  LIST  `at:length:owner length:id payload` without the blanks, the head first. at is ms since
--                         the epoch, owner the team/user of the admitting caller. A length counts the bytes of
--                         the next part
--       5           depends on the script
--       :headers    HASH  id of a message or dead letter -> its headers, which may stay for a while after it. Each key
--                         name after 4 that ends so. A worker of an earlier release does not write or read it
-- ARGV 1-3: see lib/record.
--
-- Fields of the mailbox:
--    fence    fencing token of the newest turn. It is at least the time in us, so it also grows if the mailbox is
--             gone, or if the server lost its data
--    lease    ms since the epoch: when the turn's lease ends, present while a turn is held
--    start    ms since the epoch: when the lease was granted or renewed last, or the rest was written. A worker of an
--             earlier version does not write it
--    by       names the attempt that took the turn
--    worker   name of the worker that holds the turn, for people
--    tries    attempts at the head, including the turn that is held
--    rest     ms since the epoch: the time of the next attempt at the head, present after a failure
--    done     number of removed messages of the newest turn, absent for 0
--    hand     number of messages that the newest turn returned. A worker of an earlier version does not write it
--    ops      operation log of the steps of the worker that holds the turn: see lib/record
--    posts    operation log of the other steps: see lib/record
-- If start is in the future, the clock was set back. Then lease and rest are moved back by the difference. So a dead
-- worker's turn ends at most one lease length after a script notices. A live worker renews in that time.
--
-- A mailbox without messages and lease keeps its operation logs for a while, because a retry finds its reply there.
-- Then the mailbox expires.
--
-- Reads: KEYS 3-4, call ambiguous_since now of lib/record, text log_overrun of lib/operation_log.
-- Sets: stored_mailbox (the fields above), fencing_token, lease_end, turn_attempt, turn_worker, attempts,
--    retry_at, removed_count, turn_log, message_log, is_held, message_count.
-- Functions: holds_turn, lost_reply, set_mailbox_expiry, mailbox_reply, id_of.
-- Verdicts, in addition to those of lib/record: -9 full   -10 dead letter
--
-- Why atomic: a script runs alone.

local stored_mailbox = call('HMGET', KEYS[3], 'fence', 'lease', 'by', 'worker', 'tries', 'rest', 'done', 'ops', 'posts',
  'start')
local fencing_token, lease_end, turn_attempt, turn_worker =
  stored_mailbox[1] or '0', tonumber(stored_mailbox[2] or 0), stored_mailbox[3], stored_mailbox[4] or ''
local attempts, retry_at, removed_count =
  tonumber(stored_mailbox[5] or 0), tonumber(stored_mailbox[6] or 0), tonumber(stored_mailbox[7] or 0)
local turn_log, message_log = stored_mailbox[8] or '', stored_mailbox[9] or ''
local message_count = call('LLEN', KEYS[4])  -- fails before the first write if the key holds another type of value
local turn_start = tonumber(stored_mailbox[10] or 0)
if turn_start > now and (turn_start < lease_end or retry_at ~= 0) then
  local back_ms = turn_start - now
  -- HDEL is allowed at maxmemory, and after a script's first write the server no longer rejects OOM commands. So this
  -- also works when memory is full.
  call('HDEL', KEYS[3], '')
  call('HSET', KEYS[3], 'start', text(now))
  if lease_end ~= 0 then
    lease_end = lease_end - back_ms
    call('HSET', KEYS[3], 'lease', text(lease_end))
  end
  if retry_at ~= 0 then
    retry_at = retry_at - back_ms
    call('HSET', KEYS[3], 'rest', text(retry_at))
  end
end
local is_held = now < lease_end

local function holds_turn(token)
  return is_held and fencing_token == token
end

-- Returns the reply to a call whose turn is not held. An earlier attempt may have ended the turn, and its log entry may
-- be gone.
local function lost_reply()
  return {ambiguous_since ~= '' and (not stored_mailbox[1] or log_overrun(turn_log)) and -5 or -8}
end

-- Lets the mailbox expire `log_ms` after the last message and lease. Call it after all other changes of the mailbox.
local function set_mailbox_expiry(log_ms)
  if message_count > 0 then
    call('PERSIST', KEYS[3])
  elseif is_held then  -- if the worker dies, no other worker takes this turn
    call('PEXPIREAT', KEYS[3], text(lease_end + log_ms))
  else
    call('HDEL', KEYS[3], 'lease', 'start', 'by', 'worker', 'tries', 'rest', 'done', 'hand')
    call('PEXPIRE', KEYS[3], log_ms)
  end
end

-- Returns the event id of a message, nil for a message of another form.
local function id_of(message)
  local _, last, length = string.find(message, '^%d+:(%d+):')
  if not last then return nil end
  local _, id_start, id_length = string.find(message, '^(%d+):', last + length + 1)
  return id_start and string.sub(message, id_start + 1, id_start + id_length)
end

-- Returns the reply after an enqueue, with the parts that the index needs: the number of messages, the ms until a turn
-- may be taken, and the worker that holds the turn.
local function mailbox_reply(verdict)
  local free_ms = math.max(0, (is_held and lease_end or retry_at) - now)
  return {verdict, text(message_count), text(free_ms), is_held and turn_worker or ''}
end
