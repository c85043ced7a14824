-- Start a live record's life anew; version and body stay.
--
-- KEYS, ARGV 1-3, returns, why atomic: see lib/record.
-- ARGV  4 exact    owner that may touch: the caller's own, '' for a call without one
--       5 shared   owner that may be touched as well: the caller's team without a user
--       6 ttl      new life in ms, 0 never expires; '' keeps the stored one
-- Verdicts: 1 done   0 absent   -3 mismatch   -4 ambiguous   -5 unknown

local RING = 'ops'

--@include lib/record
--@include lib/operation_log
--@include lib/check_access

local mark, at = recall(ops)
if not mark then
  if refusal == 0 and outlived(ARGV[6]) then
    return {-5}  -- an earlier attempt may have ended the record by its short life
  end
  if overrun(ops, time) then return {-5} end
  if refusal then return {refusal} end
  local ttl = ARGV[6] == '' and life or ARGV[6]
  at = text(now)
  expires, ends = life_from(now, ttl, lease)
  call('HLEN', KEYS[2])  -- should another type stand there, fail here
  -- The expiry goes first: it is no command that a server out of memory refuses, and once a script
  -- has written, the server lets it finish (Redis docs, "Eval scripts"). So touch works when full.
  expire(ends)
  if call('HSET', KEYS[1], 'ttl', ttl, 'at', at, 'ops', remember(ops, time, '0')) > 1 then
    -- The life had ended by then, the server removed the record, and the fields made it anew.
    expire(ends)
  end
  added = call('HSET', KEYS[2], field, ends)
end
if live and waits_on then
  reply = {1, version, incarnation, at, waits_on, owner, text(expires or was)}
else
  reply = {1, version or '0', incarnation or '', at}
end

--@include lib/update_lookup_ttl

return reply
