-- Say when a session is to be looked at, or that it need not be; and wake who waits.
--
-- KEYS, ARGV 1-3, why atomic: see agenda.lua.
-- ARGV  4 mark      the score that the caller gave it, '' for none
--       5 delay     ms until it is due, '' to take the hint out
--       6 channel   to tell of it, '' for none
-- Returns {1}. If the score is another than the mark, a hint is not taken out, and is due no later than before.

local before = redis.call('ZSCORE', KEYS[1], ARGV[3])
local is_own = before and ARGV[4] ~= '' and tonumber(before) == tonumber(ARGV[4])
if ARGV[5] == '' then
  if is_own then redis.call('ZREM', KEYS[1], ARGV[3]) end
  return {1}
end
local at = now + ARGV[5]
if is_own or not before or tonumber(before) > at then
  redis.call('ZREM', KEYS[1], ARGV[3])  -- nothing refuses it: see due.lua
  redis.call('ZADD', KEYS[1], score(at), ARGV[3])
end
if ARGV[6] ~= '' then redis.pcall('PUBLISH', ARGV[6], '1') end
return {1}
