-- Take the turn of a session, and return its messages and its state.
--
-- KEYS  1 record    HASH  see lib/record
--       2 lookup    HASH  see lib/record
--       3 mailbox   HASH  see lib/mailbox
--       4 messages  LIST  see lib/mailbox
--       5 dead      LIST  dead letters: `died:tries:` and the message. died is ms since the epoch
--       6 token     HASH  fence, the fencing token of the newest turn. It is kept longer than the mailbox: see
--                   lib/fencing_retention
--       7 headers   HASH  see lib/mailbox
-- ARGV 1-3: see lib/record.
-- ARGV  4 taking_attempt   names this attempt to take the turn
--       5 worker           name of the worker
--       6 lease_ms         length of the lease in ms
--       7 batch_limit      maximum number of messages to return. If the head was tried before, only the head is
--                          returned. No message after one that fails the access check is returned
--       8 attempt_limit    maximum number of attempts at a head
--       9 may_dead_letter  1 if the index of dead letters has an entry for the session, otherwise ''. With 1, a head
--                          that exhausted its attempts or fails the access check becomes a dead letter
--      10 retention_ms     ms for which dead letters are kept
--      11 keep_ms          ms to keep the operation logs of an empty mailbox
--      12 fence_floor      in us. The new fencing token is higher
--      13 dead_limit       maximum number of dead letters. The oldest ones above it are dropped
-- Returns {1, fencing token, lease end in ms, ms left, attempts, dropped dead letters, version, incarnation, owner,
-- ttl, at, body, message, headers, message, headers, ...}, {-6, ms until a turn may be taken}, {0, dropped dead letters}, or
-- {-10, dropped dead letters}. If the session is absent, its six parts are ''.
-- Verdicts: 1 done   0 no messages   -6 held, or in backoff   -10 the head must become a dead letter, call again
-- A repeated call finds its own attempt and returns the same turn.
-- Why atomic: a script runs alone. It decides first and writes last, because nothing rolls back.

local taking_attempt, worker, lease_ms, batch_limit = ARGV[4], ARGV[5], ARGV[6], ARGV[7]
local attempt_limit, may_dead_letter, retention_ms = ARGV[8], ARGV[9], ARGV[10]
local keep_ms, fence_floor, dead_limit = ARGV[11], ARGV[12], ARGV[13]
local LOG_FIELD = 'ops'

--@include lib/record
--@include lib/operation_log
--@include lib/mailbox
--@include lib/fencing_retention

-- Returns the owner that admitted a message, nil for a message of another form.
local function owner_of(message)
  local _, last, length = string.find(message, '^%d+:(%d+):')
  return last and string.sub(message, last + 1, last + length)
end

-- The access check of inbox/admit, repeated because the session may have been created later: see _core/tenancy.py.
local function is_allowed(admitting_owner)
  return not live or not admitting_owner or owner == admitting_owner
    or owner == string.match(admitting_owner, '^[^/]*/')
end

local MOVED = 64  -- limit on the messages that become dead letters in a call
local TRIMMED = 8  -- limit on the old or surplus dead letters that a call removes for each one that it adds
local dropped, moved = 0, 0
if not (is_held and turn_attempt == taking_attempt) then
  if is_held then return {-6, text(lease_end - now)} end
  if retry_at > now then return {-6, text(retry_at - now)} end
  while message_count > 0
    and (attempts >= tonumber(attempt_limit) or not is_allowed(owner_of(call('LINDEX', KEYS[4], '0')))) do
    if may_dead_letter == '' or moved == MOVED then
      if moved > 0 then call('HSET', KEYS[3], 'tries', '0') end
      return {-10, text(dropped)}
    end
    call('LLEN', KEYS[5])  -- fails before the first write if the key holds another type of value
    -- LPOP is allowed at maxmemory, and after a script's first write the server no longer rejects OOM commands.
    -- So this also works when memory is full.
    local message = call('LPOP', KEYS[4])
    local dead_count = call('RPUSH', KEYS[5], text(now) .. ':' .. text(attempts) .. ':' .. message)
    call('PEXPIREAT', KEYS[5], text(now + retention_ms - 1))
    for _ = 1, TRIMMED do  -- stops at the new dead letter at the latest
      if now < string.match(call('LINDEX', KEYS[5], '0'), '^%d+') + retention_ms then break end
      call('LPOP', KEYS[5])
      dead_count = dead_count - 1
    end
    local surplus = math.min(dead_count - dead_limit, TRIMMED)
    if surplus > 0 then
      call('LTRIM', KEYS[5], text(surplus), '-1')
      dropped = dropped + surplus
    end
    message_count, attempts, moved = message_count - 1, 0, moved + 1
  end
  if message_count == 0 then
    if stored_mailbox[1] then set_mailbox_expiry(keep_ms) end
    return {0, text(dropped)}
  end
  if not stored_mailbox[1] then
    -- Fails before the first write if the key holds another type of value.
    fencing_token = tonumber(call('HGET', KEYS[6], 'fence') or 0) or 0
  end
  -- HDEL is allowed at maxmemory, and after a script's first write the server no longer rejects OOM commands.
  -- So this also works when memory is full.
  call('HDEL', KEYS[3], 'rest', 'done', 'hand')
  attempts = attempts + 1
  fencing_token = string.format('%.0f', math.max(time[1] * 1000000 + time[2], fencing_token + 1, fence_floor + 1))
  lease_end, is_held = now + lease_ms, true
  call('HSET', KEYS[3], 'fence', fencing_token, 'lease', text(lease_end), 'start', now, 'by', taking_attempt,
    'worker', worker, 'tries', text(attempts))
  if type(redis.pcall('HSET', KEYS[6], 'fence', fencing_token)) == 'number' then
    call('PEXPIREAT', KEYS[6], text(retention_end(fencing_token, now)))
  end
  set_mailbox_expiry(keep_ms)
end
local has_headers = redis.pcall('HLEN', KEYS[7]) ~= 0
local body = live and call('HGET', KEYS[1], 'body') or ''
local turn = {1, fencing_token, text(lease_end), text(lease_end - now), text(attempts), text(dropped)}
if live then
  for _, part in ipairs({version, incarnation or '', owner or '', ttl or '', stored[5] or '', body}) do
    turn[#turn + 1] = part
  end
else
  for _ = 1, 6 do turn[#turn + 1] = '' end
end
local messages = call('LRANGE', KEYS[4], '0', attempts > 1 and '0' or text(batch_limit - 1))
local head_owner = owner_of(messages[1] or '')
for _, message in ipairs(messages) do
  local message_owner = owner_of(message)
  -- Without a session, its future owner is unknown. So a turn only returns messages of one owner.
  if message_owner ~= head_owner and (not live or not is_allowed(message_owner)) then break end
  turn[#turn + 1] = message
  local headers = has_headers and redis.pcall('HGET', KEYS[7], id_of(message) or '')
  turn[#turn + 1] = type(headers) == 'string' and headers or ''
end
call('HSET', KEYS[3], 'hand', text((#turn - 12) / 2))
return turn
