-- Shared start of the scripts that change a user's index of waits.
--
-- KEYS  1 index    HASH  reply scope (a hash) -> hints: lines of `since:marks:expires:key`
--       2 events   ZSET  digest -> when it was completed (ms since the epoch)
-- ARGV  1, 2       as for other scripts; not needed here: a repeated call comes to the same
--       3 grace    ms for which an announcement keeps its hint from being taken out
--
--    since    us since the epoch, as in the record; 0 while the hint was announced only
--    marks    us since the epoch of each announcement that is not over yet, with commas, else 0
--    expires  ms since the epoch: when the record expires, 0 never
--    key      the session's key, which holds no newline
--
-- Why atomic: a script runs alone. The index is a hint: what counts is what a record says of itself.
-- It lives as long as its longest-lived hint.

local time = redis.call('TIME')
local now_us = time[1] .. string.sub('00000' .. time[2], -6)
local now = math.floor(now_us / 1000)
local existed = redis.call('EXISTS', KEYS[1]) == 1

local function whole(number)
  return string.format('%.0f', number)
end

local function hints_of(scope)
  local hints = {}
  local lines = redis.call('HGET', KEYS[1], scope) or ''
  for since, marks, expires, key in string.gmatch(lines, '(%d+):([%d,]+):(%d+):([^\n]*)\n') do
    hints[#hints + 1] = {since = since, marks = marks, expires = expires, key = key}
  end
  return hints
end

local function set_hints(scope, hints)
  if #hints == 0 then
    redis.call('HDEL', KEYS[1], scope)
    return
  end
  local lines = {}
  for i, hint in ipairs(hints) do
    lines[i] = hint.since .. ':' .. hint.marks .. ':' .. hint.expires .. ':' .. hint.key .. '\n'
  end
  redis.call('HSET', KEYS[1], scope, table.concat(lines))
end

local function find(hints, key)
  for i, hint in ipairs(hints) do
    if hint.key == key then return hint, i end
  end
end

-- Let the index live until then (ms since the epoch, 0 for ever), if it would end sooner.
local function extend(expires)
  local left = redis.call('PTTL', KEYS[1])
  if existed and left == -1 then return end
  if expires == 0 then
    redis.call('PERSIST', KEYS[1])
  elseif not existed or now + left < expires - 1 then
    redis.call('PEXPIREAT', KEYS[1], whole(expires - 1))
  end
  existed = true
end

-- The marks of announcements that still keep the hint, but for the caller's own.
local function marks_beside(hint, own)
  local marks = {}
  for mark in string.gmatch(hint.marks, '%d+') do
    if mark ~= '0' and mark ~= own and now_us - mark < ARGV[3] * 1000 then
      marks[#marks + 1] = mark
    end
  end
  return marks
end

local function unmark(hint, own)
  local marks = marks_beside(hint, own)
  hint.marks = #marks > 0 and table.concat(marks, ',') or '0'
end
