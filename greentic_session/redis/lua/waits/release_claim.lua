-- Give a held claim back; the record's life begins anew.
--
-- KEYS, ARGV 1-3, returns, why atomic: see lib/record and lib/wait_state.
-- ARGV  4 fence    number of the claim, or
--       5 attempt  the attempt that holds it, should the caller not know the number; else ''
-- Returns {1, version, incarnation, at, since, scope or '', expiry}.
-- Verdicts: 1 done   -5 unknown   -8 claim lost

local RING = 'ops'

--@include lib/record
--@include lib/operation_log
--@include lib/event_set
--@include lib/wait_state

local mark, done_at = recall(ops)
if mark then
  return told_to_index({1, version or '0', incarnation or '', done_at}, live and was or 0)
end
if not holds(ARGV[4]) and not (live and lease and attempt == ARGV[5]) then return lost() end
call('HLEN', KEYS[2])  -- should another type stand there, fail here
forget_claim()
expires, ends = life_from(now, life)
call('HSET', KEYS[1], 'at', text(now), 'ops', remember(ops, time, '0'))
expire(ends)
added = call('HSET', KEYS[2], field, ends)
reply = told_to_index({1, version, incarnation, text(now)}, expires)

--@include lib/update_lookup_ttl

return reply
