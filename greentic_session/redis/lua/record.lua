-- Shared start of every script that writes a record; scripts.py puts it before each verb's own text.
--
-- KEYS  1 record   HASH  cas inc owner ttl at body ops, and of a session that waits or is claimed also
--                        wait since fence lease attempt (see wait.lua)
--       2 lookup   HASH  env/tenant -> when that tenant's record expires (ms since the epoch, 0 never)
-- ARGV  1 op       16 hex digits that name this call, the same on each attempt at it
--       2 age      ms, with a fraction, since an earlier attempt that may have been executed was
--                  sent; '' if none was
--       3 field    env/tenant: the record's field in the lookup
--
-- Returns {verdict, version, incarnation, at}: an integer, then bulk strings; when a session that waits
-- was written, also its reply scope, its owner and its expiry, since the index of waits lives in another
-- slot. Verdicts:
--    1 done   0 absent   -1 exists   -2 conflict   -3 mismatch   -4 ambiguous   -5 unknown
--   -6 claimed   -7 event seen   -8 claim lost
--
-- Why atomic: a script runs alone. It judges first and writes last, since nothing rolls back; its
-- first write is the one that the server refuses when it is out of memory.
--
-- ops, the ring: `op:time:mark;` newest first, time = us since the epoch, mark = the version that the
-- call made, 0 for a touch, d for a delete. A call that finds its own op was executed by an earlier
-- attempt (or by one that arrived late) and is answered, not repeated. 384 bytes hold the last ten.
--
-- Numbers go to redis.call as text, which saves a conversion in each; the body is never looked at.

local RING_BYTES = 384
local ENTRY_BYTES = 52  -- the longest entry

local op, age, field = ARGV[1], ARGV[2], ARGV[3]

-- Lua writes a whole number of up to 14 digits exactly (LUAI_NUMFFORMAT is %.14g), which covers
-- versions and times for three thousand years, and sooner than string.format does.
local function text(number)
  return number .. ''
end

local time = redis.call('TIME')
local now_us = time[1] .. string.sub('00000' .. time[2], -6)  -- as text: it has over 14 digits
local now = math.floor(now_us / 1000)
local stored = redis.call('HMGET', KEYS[1], 'cas', 'inc', 'owner', 'ttl', 'at', 'ops', 'lease', 'wait')
local version, incarnation, owner, life, ops = stored[1], stored[2], stored[3], stored[4], stored[6] or ''
local lease, waits_on = stored[7], stored[8]
-- A record is absent from the instant it expires. The server removes it a moment later: Redis 7.0
-- keeps a script's view of expiry at the script's start while TIME goes on. A hash with nothing but
-- its ring is what a delete leaves. While a claim is held, life counts from the end of its lease.
local live = version
  and (life == '0' or now < stored[5] + life or (lease and now < lease + life))

-- What an earlier attempt of this call did: its mark, its time, and the incarnation it wrote to if
-- the record still has that one. nil if none was executed.
local function recall()
  local start = string.find(ops, op, 1, true)
  if not start then return nil end
  local at, mark = string.match(ops, '^:(%d+):(%w+);', start + #op)
  local since = string.sub(ops, 1, start - 1)
  local reborn = string.find(since, ':1;', 1, true) or string.find(since, ':d;', 1, true)
  return mark, text(math.floor(at / 1000)), live and not reborn and incarnation
end

-- Whether an earlier attempt of this call may have been executed and pushed out of the ring since.
local function overrun()
  if age == '' or #ops < RING_BYTES - ENTRY_BYTES then return false end
  local oldest = string.match(ops, ':(%d+):%w+;$')
  return not oldest or tonumber(oldest) >= now_us - age * 1000
end

-- Whether what an earlier attempt of this call wrote may have expired since, its ring with it.
local function outlived(ttl)
  local life_ms = tonumber(ttl)
  return age ~= '' and life_ms and life_ms ~= 0 and life_ms <= tonumber(age)
end

local function remember(mark)
  local ring = op .. ':' .. now_us .. ':' .. mark .. ';' .. ops
  if #ring > RING_BYTES then
    ring = string.match(string.sub(ring, 1, RING_BYTES), '^.*;')
  end
  return ring
end

-- Expiry E means: absent when now >= E. The server removes a key when now > its time, hence E - 1.
local function expire(key, expires)
  if expires == 0 then
    redis.call('PERSIST', key)
  else
    redis.call('PEXPIREAT', key, text(expires - 1))
  end
end

-- Give the lookup the life of its longest-lived record, dropping fields whose record has expired.
local function trim_lookup()
  local all = redis.call('HGETALL', KEYS[2])
  local longest
  for i = 1, #all, 2 do
    local expires = tonumber(all[i + 1]) or 1  -- what is no number expired long ago
    if expires ~= 0 and expires <= now then
      redis.call('HDEL', KEYS[2], all[i])
    elseif expires == 0 or (longest ~= 0 and (not longest or expires > longest)) then
      longest = expires
    end
  end
  if longest then expire(KEYS[2], longest) end
end

-- How many tenants the lookup knows. Asked before the first write: should something else stand under
-- the lookup's name, the script fails here, with nothing written.
local function lookup_size()
  return redis.call('HLEN', KEYS[2])
end

local function mirror(expires, size_before)
  local added = redis.call('HSET', KEYS[2], field, text(expires))
  if size_before + added == 1 then
    expire(KEYS[2], expires)
  else
    trim_lookup()
  end
end

local function expiry(ttl)
  if ttl == '0' then return 0 end
  if live and lease and tonumber(lease) > now then return lease + ttl end
  return now + ttl
end

-- When the record as it was found expires.
local function found_expiry()
  if not live or life == '0' then return 0 end
  return math.max(stored[5], lease or 0) + life
end

-- The answer to a call that wrote a record, now or by an earlier attempt.
local function done(next_version, inc, at, expires)
  if live and waits_on then return {1, next_version, inc, at, waits_on, owner, text(expires)} end
  return {1, next_version, inc, at}
end

-- Whether another tenant holds a live record under the same key.
local function is_ambiguous()
  local all = redis.call('HGETALL', KEYS[2])
  for i = 1, #all, 2 do
    local expires = tonumber(all[i + 1]) or 1
    if all[i] ~= field and (expires == 0 or expires > now) then return true end
  end
  return false
end

-- A verdict against a call with a caller's owners (its own, its team's), or nil. A call without a
-- caller brings '' twice: it meets no fence, but must not choose between tenants.
local function refuse(exact, shared)
  if not live then return 0 end
  if exact ~= '' then
    return owner ~= exact and owner ~= shared and -3 or nil
  end
  return is_ambiguous() and -4 or nil
end

-- Write the whole record (ARGV 4 owner, 5 ttl, 6 body) and answer.
local function write(next_version, inc)
  local ttl, at = ARGV[5], text(now)
  if next_version == '1' and outlived(ttl) then return {-5} end
  local expires, size = expiry(ttl), lookup_size()
  redis.call('HSET', KEYS[1], 'cas', next_version, 'inc', inc, 'owner', ARGV[4], 'ttl', ttl,
    'at', at, 'body', ARGV[6], 'ops', remember(next_version))
  if not live and (lease or waits_on) then  -- of an expired session that the server still has
    redis.call('HDEL', KEYS[1], 'wait', 'since', 'fence', 'lease', 'attempt')
  end
  expire(KEYS[1], expires)
  mirror(expires, size)
  return done(next_version, inc, at, expires)
end
