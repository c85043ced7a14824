-- Return the worker that serves a key, and restart the placement's lifetime.
--
-- KEYS  1 ops      ZSET  see lib/affinity
--       2 members  HASH  see lib/affinity
--       3 places   HASH  see lib/affinity
--       4 ends     ZSET  see lib/affinity
-- ARGV 1-2: see lib/affinity.
-- ARGV  3 grace_ms  ms for which done calls are remembered
--       4 key       see lib/affinity
--       5 ttl_ms    lifetime in ms of a placement that was absent
-- Returns {1, worker, 1 if pinned else 0, expiry in ms}, or {0}.
-- Verdicts: 1 done   0 no member is live
-- The chosen worker is the first of these: the worker that the key is pinned to, if it is live. The worker that the
-- key was assigned to last, if it is live. A member by rendezvous hashing, which is then assigned.
-- A repeated call finds its earlier assignment.
-- Why atomic: a script runs alone. It decides first and writes last, because nothing rolls back.

local key, ttl_ms = ARGV[4], ARGV[5]

--@include lib/affinity
--@include lib/assignments

-- Lua compares texts by the server's locale. A comparison of bytes is the same on every server.
local function is_after(one, other)
  for i = 1, math.min(#one, #other) do
    local left, right = string.byte(one, i), string.byte(other, i)
    if left ~= right then return left > right end
  end
  return #one > #other
end

-- Returns the same worker as rendezvous() in abc/affinity.py.
local function rendezvous()
  local best, highest = nil, ''
  local all = call('HGETALL', KEYS[2])
  for i = 1, #all, 2 do
    local lease_end = parse_member(all[i], all[i + 1])
    if lease_end and now < lease_end then
      local weight = redis.sha1hex(all[i] .. '\n' .. key) .. all[i]
      if is_after(weight, highest) then best, highest = all[i], weight end
    end
  end
  return best
end

local worker, pin, stored_ttl_ms = find_placement(key)
local chosen
if pin and is_live(pin) then
  chosen = pin
elseif worker and is_live(worker) then
  chosen = worker
else
  chosen = rendezvous()
end
if not chosen then return {0} end
if worker then begin_at_maxmemory() end
local expires = write_placement(key, chosen, pin or '', stored_ttl_ms or ttl_ms)
return {1, chosen, chosen == pin and 1 or 0, expires}
