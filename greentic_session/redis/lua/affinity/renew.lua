-- Let a member's lease end later. A repeated call renews again.
--
-- KEYS, ARGV 1-3, why atomic: see lib/affinity.
-- ARGV  4 worker   its name
--       5 attempt  names the membership
--       6 lease    ms from now
-- Returns {1, fence, lease end in ms, ms left}, or {-8} if the membership has ended.

--@include lib/affinity
--@include lib/members

local ends, fence, attempt = seat_of(ARGV[4])
if not ends or now >= ends or attempt ~= ARGV[5] then return {-8} end
though_full()
return sit(ARGV[4], fence, attempt, math.max(now + ARGV[6], ends))
