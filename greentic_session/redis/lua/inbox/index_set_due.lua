-- Say when a session is to be looked at, or that it need not be; and wake who waits.
--
-- KEYS, ARGV 1-3, why atomic: see lib/inbox_index.
-- ARGV  4 mark      the score that the caller gave it, '' for none
--       5 delay     ms until it is due, '' if it need not be
--       6 channel   to tell of it, '' for none
--       7 token     of the caller's expectation, which is over, '' for none
-- Returns {1}. If the score is another than the mark, a hint is not taken out, and is due no later than before.

--@include lib/inbox_index

if ARGV[7] ~= '' then redis.call('ZREM', KEYS[1], ARGV[7] .. '!' .. ARGV[3]) end
local before = redis.call('ZSCORE', KEYS[1], ARGV[3])
local is_own = before and ARGV[4] ~= '' and tonumber(before) == tonumber(ARGV[4])
if ARGV[5] == '' then
  if is_own then redis.call('ZREM', KEYS[1], ARGV[3]) end
  return {1}
end
local at = now + ARGV[5]
if before and not is_own then at = math.min(at, before - 0.001) end  -- a change, for who looks at it now
redis.call('ZREM', KEYS[1], ARGV[3])  -- nothing refuses it: see inbox/index_next_due
redis.call('ZADD', KEYS[1], score(at), ARGV[3])
if ARGV[6] ~= '' then redis.pcall('PUBLISH', ARGV[6], '1') end
return {1}
