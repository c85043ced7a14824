-- Enter a hint before the mail, so that there is no mail without one.
--
-- KEYS, ARGV 1-3, why atomic: see agenda.lua.
-- ARGV  4 grace   ms after which the session is looked at, should its admitter not come to say more
-- Returns {1 if the hint is new else 0, its score}. A repeated call enters it anew.

local before = redis.call('ZSCORE', KEYS[1], ARGV[3])
local at = now + ARGV[4]
if before then at = math.min(at, before - 0.001) end
redis.call('ZADD', KEYS[1], score(at), ARGV[3])
return {before and 0 or 1, score(at)}
