-- Become a member; or let the lease of the same attempt's membership begin anew, as a repeated call does.
--
-- KEYS, ARGV 1-3, why atomic: see lib/affinity.
-- ARGV  4 worker   its name
--       5 attempt  names the membership
--       6 lease    ms from now
--       7 floor    us: the fence is to be higher
-- Returns {1, fence, lease end in ms, ms left}, or {-6, lease end in ms} if a member of that name lives.

--@include lib/affinity
--@include lib/members

local ends, fence, attempt = seat_of(ARGV[4])
if not ends or now >= ends then
  -- In digits: fences of us are whole up to 2^53, which is in the year 2255.
  fence = whole(math.max(time[1] * 1000000 + time[2], (fence or 0) + 1, ARGV[7] + 1))
elseif attempt ~= ARGV[5] then
  return {-6, whole(ends)}
end
return sit(ARGV[4], fence, ARGV[5], math.max(now + ARGV[6], ends or 0))
