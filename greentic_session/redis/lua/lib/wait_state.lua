-- Shared start of the scripts that change a record's wait; put after lib/record and lib/event_set.
--
-- KEYS  3 events   ZSET  digest -> when it was completed (ms since the epoch)
--
-- Fields of the record, beside those of lib/record; none of them is there before a session first waits:
--    wait     reply scope, as a hash; there while the session waits there
--    since    us since the epoch: when it was registered; grows with every registration on a scope
--    lease    ms since the epoch: when the claim's lease ends; there while a claim is held
--    attempt  names the attempt that claimed
--    fence    number of the newest claim. Never less than the time in us, so it grows on even when the
--             server comes back without its data; it stays when the claim ends
--
-- A claim is held until it is settled, released, or pushed aside by a later one. When its lease has run
-- out it is still held, but open to others.

local told = call('HMGET', KEYS[1], 'since', 'fence', 'attempt')
local since, fence, attempt = told[1] or '0', told[2] or '0', told[3]

-- Numbers of us have more digits than text() keeps.
local function whole(number)
  return string.format('%.0f', number)
end

local function after(low, high)
  return whole(math.max(time[1] * 1000000 + time[2], low + 1, high + 1))
end

-- Whether the caller's claim is held. A retried call asks the ring first.
local function holds(number)
  return live and lease and fence == number
end

-- The verdict on a call whose claim is not held.
local function lost()
  -- An earlier attempt may have ended the claim, and its trace may be gone with the record.
  if doubt ~= '' and (not live or overrun(ops, time)) then return {-5} end
  return {-8}
end

-- What the index of waits has to be told: it lives elsewhere, and no shorter than the record.
local function told_to_index(reply, expires)
  reply[#reply + 1] = since
  reply[#reply + 1] = waits_on or ''
  reply[#reply + 1] = text(expires)
  return reply
end

local function forget_claim()
  call('HDEL', KEYS[1], 'lease', 'attempt')
  lease = nil
end

local function is_seen(event, ttl)
  local at = event ~= '' and call('ZSCORE', KEYS[3], event)
  return at and now < at + ttl
end

local function remember_event(event, most, ttl)
  if event == '' then return end
  call('ZADD', KEYS[3], text(now), event)
  trim_events(KEYS[3], event, most, ttl)
  call('PEXPIREAT', KEYS[3], text(now + ttl - 1))
end
