-- Shared rules on earlier attempts and on lives; put after lib/record.

local RING_BYTES = 330  -- of the older entries that are kept beside the newest

-- Lua writes a whole number of up to 14 digits exactly (LUAI_NUMFFORMAT is %.14g), which covers
-- versions and times for three thousand years, and sooner than string.format does.
local function text(number)
  return number .. ''
end

-- What an earlier attempt of this call did: its mark and its time, and the incarnation it wrote to if
-- the record, whose incarnation is given, still has that one. nil if none was executed.
local function recall(ops, incarnation)
  local start = string.find(ops, ARGV[1], 1, true)
  if not start then return nil end
  local secs, us, mark = string.match(ops, '^:(%d+):(%d+):(%w+);', start + 16)
  if not mark then return nil end
  local since = string.sub(ops, 1, start - 1)
  local reborn = string.find(since, ':1;', 1, true) or string.find(since, ':d;', 1, true)
  return mark, secs * 1000 + math.floor(us / 1000) .. '', not reborn and incarnation
end

-- Whether an earlier attempt of this call may have been executed and pushed out of the ring since.
local function overrun(ops, time)
  if doubt == '' or #ops <= RING_BYTES then return false end
  local secs, us = string.match(ops, '.*:(%d+):(%d+):%w+;')
  return not secs or secs * 1000 + us / 1000 >= tonumber(doubt)
end

-- Whether what an earlier attempt of this call wrote may have expired since, its ring with it.
local function outlived(ttl)
  local life_ms = tonumber(ttl)
  return doubt ~= '' and life_ms and life_ms ~= 0 and life_ms <= now + 1 - doubt
end

local function remember(ops, time, mark)
  return ARGV[1] .. ':' .. time[1] .. ':' .. time[2] .. ':' .. mark .. ';' .. string.sub(ops, 1, RING_BYTES)
end

-- When a life that begins now ends. Expiry E means: absent when now >= E. The server removes a key when
-- now > its time, hence `ends`, which is E - 1. While a claim is held, life begins with the lease's end.
local function life_from(now, ttl, lease)
  if ttl == '0' then return 0, '0' end
  local expires = (lease and lease + 0 > now and lease or now) + ttl
  return expires, (expires - 1) .. ''
end

local function expire(ends)
  if ends == '0' then
    redis.call('PERSIST', KEYS[1])
  else
    redis.call('PEXPIREAT', KEYS[1], ends)
  end
end
