-- Add a member, or restart its lease if the same attempt has joined already.
--
-- KEYS  1 ops      ZSET  see lib/affinity
--       2 members  HASH  see lib/affinity
--       3 places   HASH  see lib/affinity
--       4 ends     ZSET  see lib/affinity
-- ARGV 1-2: see lib/affinity.
-- ARGV  3 grace_ms     ms for which done calls are remembered
--       4 worker       name of the worker
--       5 attempt      names the membership
--       6 lease_ms     ms from now
--       7 fence_floor  in us. The new fencing token is higher
-- Returns {1, fencing token, lease end in ms, ms left}, or {-6, lease end in ms}.
-- Verdicts: 1 done   -6 a member of that name is live
-- A repeated call finds its attempt and renews the lease.
-- Why atomic: a script runs alone. It decides first and writes last, because nothing rolls back.

local worker, attempt, lease_ms, fence_floor = ARGV[4], ARGV[5], ARGV[6], ARGV[7]

--@include lib/affinity
--@include lib/fencing_retention
--@include lib/members

local lease_end, fencing_token, stored_attempt = find_member(worker)
if not lease_end or now >= lease_end then
  local highest = tonumber(call('HGET', KEYS[2], TOKEN_FIELD) or 0) or 0
  -- A token in us is below 2^53 until the year 2255, so Lua represents it exactly.
  fencing_token =
    whole(math.max(time[1] * 1000000 + time[2], (fencing_token or 0) + 1, highest + 1, fence_floor + 1))
  call('HSET', KEYS[2], TOKEN_FIELD, fencing_token)
elseif stored_attempt ~= attempt then
  return {-6, whole(lease_end)}
end
return write_member(worker, fencing_token, attempt, math.max(now + lease_ms, lease_end or 0))
