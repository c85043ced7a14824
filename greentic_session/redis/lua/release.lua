-- Give a held claim back; the record's life begins anew.
--
-- KEYS, ARGV 1-3, returns, why atomic: see record.lua and wait.lua.
-- ARGV  4 fence    number of the claim, or
--       5 attempt  the attempt that holds it, should the caller not know the number; else ''
-- Returns {1, version, incarnation, at, since, scope or '', expiry}.
-- Verdicts: 1 done   -5 unknown   -8 claim lost

local mark, done_at = recall()
if mark then
  return told_to_index({1, version or '0', incarnation or '', done_at}, found_expiry())
end
if not holds(ARGV[4]) and not (live and lease and attempt == ARGV[5]) then return lost() end
local size = lookup_size()
forget_claim()
local expires = expiry(life)
redis.call('HSET', KEYS[1], 'at', text(now), 'ops', remember('0'))
expire(KEYS[1], expires)
mirror(expires, size)
return told_to_index({1, version, incarnation, text(now)}, expires)
