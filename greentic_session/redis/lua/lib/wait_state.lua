-- Read the wait and the claim of a session. Include it after lib/operation_log and lib/event_set.
--
-- KEYS  3 events   ZSET  digest -> when the event was completed (ms since the epoch)
--
-- Fields of the record, in addition to those of lib/record. None of them exists before a session first waits:
--    wait     reply scope, as a hash. Present while the session waits
--    since    us since the epoch: when the wait was registered. It grows with every registration on a reply scope
--    lease    ms since the epoch: when the claim's lease ends. Present while a claim is held
--    start    ms since the epoch: when the lease was granted or renewed last. A claim of a worker of an earlier version
--             has none
--    attempt  names the attempt that claimed
--    fence    fencing token of the newest claim. Never less than the time in us, so it grows even if the server
--             loses its data. It stays when the claim ends. The key token of waits/claim outlives the record
--
-- A claim is held until it is ended, released, or superseded by a later claim or registration. After the end of its
-- lease it is still held, but another attempt can claim the wait.
--
-- A clock that is set back: a start in the future shows by how much. Then the lease ends earlier by as much. So a dead
-- worker's claim ends within the length of its lease from the moment that a script notices. A live worker renews in
-- that time.
--
-- Reads: KEYS 1 and 3, and the locals of lib/record, lib/operation_log and lib/event_set.
-- Sets: since fence attempt lease_start.
-- Functions: whole, later_than, holds_claim, claim_lost_reply, with_index_update, remove_claim, is_seen,
--    remember_event.

local wait_fields = call('HMGET', KEYS[1], 'since', 'fence', 'attempt', 'start')
local since, fence, attempt = wait_fields[1] or '0', wait_fields[2] or '0', wait_fields[3]
if not (tonumber(since) and tonumber(fence) and (not live or tonumber(version))) then
  return redis.error_reply('WRONGTYPE a field of the record is not of its type')
end

local lease_start = lease and tonumber(wait_fields[4]) or 0  -- 0 if it is unknown
if lease_start > now and lease_start < lease + 0 then
  lease = text(lease - (lease_start - now))
  -- HDEL is allowed at maxmemory, and after a script's first write the server no longer rejects OOM commands. So this
  -- also works when memory is full.
  call('HDEL', KEYS[1], '')
  call('HSET', KEYS[1], 'lease', lease, 'start', text(now))
  lease_start = now
end

-- Numbers of us have more digits than text() writes.
local function whole(number)
  return string.format('%.0f', number)
end

-- The time in us, or the next number if it is not higher than both.
local function later_than(previous, floor)
  return whole(math.max(time[1] * 1000000 + time[2], previous + 1, floor + 1))
end

-- Whether the caller's claim is held. Call find_earlier_attempt first: an earlier attempt may have ended the claim.
local function holds_claim(fencing_token)
  return live and lease and fence == fencing_token
end

-- The reply to a call whose claim is not held.
local function claim_lost_reply()
  -- An earlier attempt may have ended the claim, and its entry in the log may be gone with the record.
  if ambiguous_since ~= '' and (not live or log_overrun(log)) then return {-5} end
  return {-8}
end

-- The reply, and what the index of waits needs to know. The index lives elsewhere, and as long as the record.
local function with_index_update(answer, expires_ms)
  answer[#answer + 1] = since
  answer[#answer + 1] = live and waits_on or ''  -- an expired record that the server has not removed does not wait
  answer[#answer + 1] = text(expires_ms)
  return answer
end

local function remove_claim()
  call('HDEL', KEYS[1], 'lease', 'start', 'attempt')
  lease = nil
end

local function is_seen(digest, ttl_ms)
  local completed_at = digest ~= '' and call('ZSCORE', KEYS[3], digest)
  return completed_at and now < completed_at + ttl_ms
end

local function remember_event(digest, limit, ttl_ms)
  if digest == '' then return end
  call('ZADD', KEYS[3], text(now), digest)
  trim_events(KEYS[3], digest, limit, ttl_ms)
  call('PEXPIREAT', KEYS[3], text(now + ttl_ms - 1))
end
