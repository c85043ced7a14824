-- Writes numbers as text, reads and extends the operation log, and sets the expiry of the record. Include it after
-- lib/record.
--
-- Reads: KEYS 1, operation_id, ambiguous_since, time, now, LOG_BYTES.
-- Functions: text, find_earlier_attempt, log_overrun, may_have_expired, append_to_log, expiry_from, expire_record.

-- Lua writes a whole number of up to 14 digits exactly (LUA_NUMBER_FMT is %.14g). That covers versions, and times in ms
-- for three thousand years. It is faster than string.format.
local function text(number)
  return number .. ''
end

-- Returns the result and the time of an earlier attempt of this call, nil if none was executed. The third value is
-- `known_incarnation` if the attempt wrote to that incarnation.
local function find_earlier_attempt(log_text, known_incarnation)
  local start = string.find(log_text, operation_id, 1, true)
  if not start then return nil end
  local secs, us, result = string.match(log_text, '^:(%d+):(%d+):(%w+);', start + 16)
  if not result then return nil end
  local newer = string.sub(log_text, 1, start - 1)
  local is_other = string.find(newer, ':1;', 1, true) or string.find(newer, ':d;', 1, true)
  return result, secs * 1000 + math.floor(us / 1000) .. '', not is_other and known_incarnation
end

-- Returns whether the log may have dropped the entry of an earlier attempt of this call.
local function log_overrun(log_text)
  if ambiguous_since == '' then return false end
  if string.byte(ambiguous_since) == 43 then return true end  -- a plus sign
  if #log_text <= LOG_BYTES then return false end
  local secs, us = string.match(log_text, '.*:(%d+):(%d+):%w+;')
  return not secs or secs * 1000 + us / 1000 >= tonumber(ambiguous_since)
end

-- Returns whether a record that an earlier attempt of this call wrote may have expired since, together with its log.
local function may_have_expired(written_ttl)
  local ttl_ms = tonumber(written_ttl)
  return ambiguous_since ~= '' and ttl_ms and ttl_ms ~= 0 and ttl_ms <= now + 1 - ambiguous_since
end

-- Returns the log with an entry for this call in front.
local function append_to_log(log_text, result)
  return operation_id .. ':' .. time[1] .. ':' .. time[2] .. ':' .. result .. ';' .. string.sub(log_text, 1, LOG_BYTES)
end

-- Returns the end of a lifetime that starts at `start_ms`, as a number, and the last ms before it, as text. Both are 0
-- if it never ends. While a claim is held, the lifetime starts at `lease_end` if that is later. A record with expiry E
-- is absent when now >= E. The server removes a key when now > its time.
local function expiry_from(start_ms, ttl_ms, lease_end)
  if ttl_ms == '0' then return 0, '0' end
  local end_ms = (lease_end and lease_end + 0 > start_ms and lease_end or start_ms) + ttl_ms
  return end_ms, (end_ms - 1) .. ''
end

local function expire_record(at_ms)
  if at_ms == '0' then
    redis.call('PERSIST', KEYS[1])
  else
    redis.call('PEXPIREAT', KEYS[1], at_ms)
  end
end
