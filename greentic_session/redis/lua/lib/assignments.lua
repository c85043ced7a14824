-- Reads and writes placements. Include it after lib/affinity.
--
-- Reads: KEYS call now whole last_ms of lib/affinity.
-- Functions: find_placement, sweep_placements, write_placement, remove_placement.

local SWEEP_LIMIT = '8'  -- limit on the expired placements that a change removes. A change adds at most one

-- Returns the worker, pin and ttl of a placement, nil if it is absent.
local function find_placement(key)
  local line = call('HGET', KEYS[3], key) or ''
  local expires, ttl, worker, pin = string.match(line, '^(%d+):(%d+):([^\n]*)\n([^\n]*)$')
  if expires and now < tonumber(expires) then return worker, pin, ttl end
end

-- Removes some expired placements, and lets the keys live as long as the longest placement.
local function sweep_placements()
  for _, key in ipairs(call('ZRANGEBYSCORE', KEYS[4], '-inf', whole(now), 'LIMIT', '0', SWEEP_LIMIT)) do
    call('HDEL', KEYS[3], key)
    call('ZREM', KEYS[4], key)
  end
  local last = call('ZREVRANGE', KEYS[4], '0', '0', 'WITHSCORES')[2]
  if last then
    call('PEXPIREAT', KEYS[3], last_ms(last))
    call('PEXPIREAT', KEYS[4], last_ms(last))
  end
end

-- Writes a placement whose lifetime starts now, and returns when it expires.
local function write_placement(key, worker, pin, ttl)
  local expires = whole(now + ttl)
  call('HSET', KEYS[3], key, expires .. ':' .. ttl .. ':' .. worker .. '\n' .. pin)
  call('ZADD', KEYS[4], expires, key)
  sweep_placements()
  return expires
end

local function remove_placement(key)
  call('HDEL', KEYS[3], key)
  call('ZREM', KEYS[4], key)
  sweep_placements()
end
