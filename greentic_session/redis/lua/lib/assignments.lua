-- Shared by the scripts that change places; put after lib/affinity.

local FEW = '8'  -- expired placements that each change takes out; it makes at most one

-- A placement's worker, pin and ttl; nil if it is not there.
local function placed(place)
  local line = call('HGET', KEYS[3], place) or ''
  local expires, ttl, worker, pin = string.match(line, '^(%d+):(%d+):([^\n]*)\n([^\n]*)$')
  if expires and now < tonumber(expires) then return worker, pin, ttl end
end

-- Take out a few placements that have expired, and let the rest live as long as the longest of them.
local function tidy_places()
  for _, place in ipairs(call('ZRANGEBYSCORE', KEYS[4], '-inf', whole(now), 'LIMIT', '0', FEW)) do
    call('HDEL', KEYS[3], place)
    call('ZREM', KEYS[4], place)
  end
  local last = call('ZREVRANGE', KEYS[4], '0', '0', 'WITHSCORES')[2]
  if last then
    call('PEXPIREAT', KEYS[3], last_ms(last))
    call('PEXPIREAT', KEYS[4], last_ms(last))
  end
end

-- Write a placement whose life begins now, and return when it expires.
local function keep(place, worker, pin, ttl)
  local expires = whole(now + ttl)
  call('HSET', KEYS[3], place, expires .. ':' .. ttl .. ':' .. worker .. '\n' .. pin)
  call('ZADD', KEYS[4], expires, place)
  tidy_places()
  return expires
end

local function drop(place)
  call('HDEL', KEYS[3], place)
  call('ZREM', KEYS[4], place)
  tidy_places()
end
