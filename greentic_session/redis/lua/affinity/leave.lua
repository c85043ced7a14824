-- End a membership.
--
-- KEYS, ARGV 1-3, why atomic: see lib/affinity.
-- ARGV  4 worker   its name
--       5 attempt  names the membership
-- Returns {1}, or {-8} if it had ended.

--@include lib/affinity
--@include lib/members

if is_done then return {1} end
local ends, _, attempt = seat_of(ARGV[4])
if not ends or now >= ends or attempt ~= ARGV[5] then return {-8} end
call('HDEL', KEYS[2], ARGV[4])
tidy_members()
remember()
return {1}
