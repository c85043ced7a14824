-- Start a live record's life anew; version and body stay.
--
-- KEYS, ARGV 1-3, returns, why atomic: see record.lua.
-- ARGV  4 exact    owner that may touch: the caller's own, '' for a call without one
--       5 shared   owner that may be touched as well: the caller's team without a user
--       6 ttl      new life in ms, 0 never expires; '' keeps the stored one
-- Verdicts: 1 done   0 absent   -3 mismatch   -4 ambiguous   -5 unknown

local mark, done_at = recall()
if mark then return done(version or '0', incarnation or '', done_at, found_expiry()) end
local refusal = refuse(ARGV[4], ARGV[5])
if refusal == 0 and age ~= '' and (tonumber(ARGV[6]) or 0) ~= 0 and ARGV[6] - age <= 0 then
  return {-5}  -- an earlier attempt may have ended the record by its short life
end
if refusal then return {refusal} end
if overrun() then return {-5} end
local ttl = ARGV[6] == '' and life or ARGV[6]
local expires, size = expiry(ttl), lookup_size()
-- The expiry goes first: it is no command that a server out of memory refuses, and once a script
-- has written, the server lets it finish (Redis docs, "Eval scripts"). So touch works when full.
expire(KEYS[1], expires)
redis.call('HSET', KEYS[1], 'ttl', ttl, 'at', text(now), 'ops', remember('0'))
-- And again: had the life ended by then, the server removed the record, and the fields made it anew.
expire(KEYS[1], expires)
mirror(expires, size)
return done(version, incarnation, text(now), expires)
