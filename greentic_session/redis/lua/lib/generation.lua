-- Read an owner's generation and its lifetime. Every script on a generation starts with this text.
--
-- KEYS  1 generation  STRING  `us-random`
-- ARGV  1, 2  operation_id, ambiguous_since: not used here, because a repeat is harmless
--       3 ms  see the script
--
--    us      us since the epoch: when it was stored, and more than in the generation that it replaced
--    random  32 hex digits from the caller, new in each call
--
-- So a repeated call never stores an earlier generation again, even if another one was stored meanwhile. And no two
-- calls store the same one, even if the stored one was lost and the clock is set back.
--
-- Reads: KEYS 1, ARGV 3.
-- Sets: KEYS ARGV call ms stored left (lifetime in ms: -1 never expires, -2 none is stored).
-- Functions: generation_from.
--
-- Why atomic: a script runs alone. It decides first and writes last, because nothing rolls back.

local KEYS, ARGV, call = KEYS, ARGV, redis.call
local ms = tonumber(ARGV[3])
local stored = call('GET', KEYS[1])  -- fails before the first write if the key holds another type of value
local left = call('PTTL', KEYS[1])

-- Returns a new generation. A time in us has too many digits for Lua's own conversion to text.
local function generation_from(random)
  local time = call('TIME')
  local us = time[1] * 1000000 + time[2]
  local earlier = stored and tonumber(string.match(stored, '^(%d+)-'))
  if earlier and earlier >= us then us = earlier + 1 end
  return string.format('%.0f', us) .. '-' .. random
end
