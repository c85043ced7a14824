-- Say who serves a place, and begin its placement's life anew: the worker that it is pinned to, if that one
-- lives; else the one that it was given to last, if that one lives; else a member by rendezvous hashing, to
-- whom it is given.
--
-- KEYS, ARGV 1-3, why atomic: see lib/affinity.
-- ARGV  4 place
--       5 ttl    ms: life of a placement that was not there
-- Returns {1, worker, 1 if pinned else 0, expiry in ms}, or {0} if no member lives.

-- Lua compares texts by the server's locale; bytes are the same everywhere.

--@include lib/affinity
--@include lib/assignments

local function is_after(one, other)
  for i = 1, math.min(#one, #other) do
    local left, right = string.byte(one, i), string.byte(other, i)
    if left ~= right then return left > right end
  end
  return #one > #other
end

-- See rendezvous() in membership.py.
local function rendezvous(place)
  local best, highest = nil, ''
  local all = call('HGETALL', KEYS[2])
  for i = 1, #all, 2 do
    local ends = tonumber(string.match(all[i + 1], '^(%d+):%d+:') or '0')
    if now < ends then
      local weight = redis.sha1hex(all[i] .. '\n' .. place) .. all[i]
      if is_after(weight, highest) then best, highest = all[i], weight end
    end
  end
  return best
end

local worker, pin, ttl = placed(ARGV[4])
local chosen
if pin and lives(pin) then
  chosen = pin
elseif worker and lives(worker) then
  chosen = worker
else
  chosen = rendezvous(ARGV[4])
end
if not chosen then return {0} end
if worker then though_full() end
local expires = keep(ARGV[4], chosen, pin or '', ttl or ARGV[5])
return {1, chosen, chosen == pin and 1 or 0, expires}
