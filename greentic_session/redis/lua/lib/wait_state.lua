-- Read the wait and the claim of a session. Include it after lib/operation_log and lib/event_set.
--
-- KEYS  3 events   ZSET  digest -> when the event was completed (ms since the epoch)
--
-- Fields of the record, in addition to those of lib/record. None of them exists before a session first waits:
--    wait     reply scope, as a hash. Present while the session waits
--    since    us since the epoch: when the wait was registered. It grows with every registration on a reply scope
--    lease    ms since the epoch: when the claim's lease ends. Present while a claim is held
--    start    ms since the epoch: when the lease was granted or renewed last. A worker of an earlier version does not
--             write it
--    attempt  names the attempt that claimed
--    fence    fencing token of the newest claim. Never less than the time in us, so it grows even if the server
--             loses its data. It stays when the claim ends. The key token of waits/claim outlives the record
--
-- A claim is held until it is ended, released, or superseded by a later claim or registration. After the end of its
-- lease it is still held, but another attempt can claim the wait.
--
-- If start is in the future, the clock was set back. Then the lease end is moved back by the difference. So a dead
-- worker's lease ends at most one lease length after a script notices. A live worker renews in that time.
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

-- A time in us has more digits than text() writes.
local function whole(number)
  return string.format('%.0f', number)
end

-- Returns the time in us, but at least one more than both numbers.
local function later_than(previous, floor)
  return whole(math.max(time[1] * 1000000 + time[2], previous + 1, floor + 1))
end

-- Returns whether the caller's claim is held. Call find_earlier_attempt before, because an earlier attempt may have
-- ended the claim.
local function holds_claim(fencing_token)
  return live and lease and fence == fencing_token
end

-- Returns the reply to a call whose claim is not held.
local function claim_lost_reply()
  -- An earlier attempt may have ended the claim, and its entry in the log may be gone with the record.
  if ambiguous_since ~= '' and (not live or log_overrun(log)) then return {-5} end
  return {-8}
end

-- Adds to a reply the parts that the index of waits needs. The index lives in another slot, as long as the record. If
-- the session's entries in the indexes of sessions end too early, its labels follow.
local function with_index_update(answer, expires_ms)
  answer[#answer + 1] = since
  answer[#answer + 1] = live and waits_on or ''  -- an expired record that the server has not removed does not wait
  answer[#answer + 1] = text(expires_ms)
  -- The next renewal may prolong the record once more, before the caller has prolonged its index entries.
  local ahead = lease and lease - now > 0 and lease - now or 0
  local is_short = live and tonumber(entries_end) and entries_end ~= '0' and expires_ms + ahead > entries_end + 0
  if is_short then
    answer[#answer + 1] = call('HGET', KEYS[1], 'labels') or ''
  end
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
