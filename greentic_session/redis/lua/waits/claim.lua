-- Claim a wait, which moves the token; or renew the lease of the claim that the same attempt holds.
--
-- KEYS, ARGV 1-3, returns, why atomic: see lib/record and lib/wait_state.
-- ARGV  4 owner    team/user
--       5 scope    reply scope, as a hash
--       6 attempt  names the attempt
--       7 event    digest of the event, '' for none
--       8 lease    ms
--       9 ttl      ms for which completed events are known
--      10 floor    us: the fence is to be higher
-- Returns {1, version, incarnation, at, life, body, fence, lease end in ms, ms left, since, scope, expiry},
-- or {-6, lease end in ms}.
-- Verdicts: 1 done   0 absent   -6 claimed   -7 event seen. A repeated call finds its own attempt.

local RING = 'ops'

--@include lib/record
--@include lib/operation_log
--@include lib/event_set
--@include lib/wait_state

if is_seen(ARGV[7], ARGV[9]) then return {-7} end
if not live or owner ~= ARGV[4] or waits_on ~= ARGV[5] then return {0} end
-- The claim that an earlier attempt took, or one that arrived late, has ended since.
if recall(ops) and not (lease and attempt == ARGV[6]) then return {0} end
local leased, at, ring = now + ARGV[8], text(now), ops
if lease and now < tonumber(lease) then
  if attempt ~= ARGV[6] then return {-6, lease} end
  leased, at = math.max(leased, lease), stored[5]
else
  fence, version = after(fence, ARGV[10]), text(version + 1)
  ring = remember(ops, time, version)
end
lease = text(leased)
expires, ends = life_from(now, life, lease)
call('HLEN', KEYS[2])  -- should another type stand there, fail here
-- The expiry goes first, so that a claim is taken when memory is full: see sessions/touch.
expire(ends)
call('HSET', KEYS[1], 'cas', version, 'at', at, 'lease', lease, 'attempt', ARGV[6],
  'fence', fence, 'ops', ring)
added = call('HSET', KEYS[2], field, ends)
reply = told_to_index({1, version, incarnation, at, life, call('HGET', KEYS[1], 'body'), fence,
  lease, text(leased - now)}, expires)

--@include lib/update_lookup_ttl

return reply
