-- Remove a live record.
--
-- KEYS, ARGV 1-3, returns, why atomic: see record.lua. DEL goes first, so it works when memory is full.
-- ARGV  4 exact    owner that may delete: the caller's own, '' for a call without one
--       5 shared   owner whose record may be deleted as well: the caller's team without a user
--       6 inc      incarnation expected, '' for any token
--       7 cas      version expected, '' for any token
--       8 keep     ms to keep the ring, so that a later attempt of this call finds its answer and
--                  leaves alone what was created under the name since
-- Verdicts: 1 done   0 absent   -2 conflict (with the stored token)   -3 mismatch   -4 ambiguous   -5 unknown

local mark, done_at = recall()
if mark then return {1, '0', '', done_at} end
local refusal = refuse(ARGV[4], ARGV[5])
if refusal then return {refusal} end
if overrun() then return {-5} end
if ARGV[7] ~= '' and (version ~= ARGV[7] or incarnation ~= ARGV[6]) then
  return {-2, version, incarnation}
end
local ring = remember('d')
lookup_size()
redis.call('DEL', KEYS[1])
redis.call('HSET', KEYS[1], 'ops', ring)
redis.call('PEXPIRE', KEYS[1], ARGV[8])
redis.call('HDEL', KEYS[2], field)
trim_lookup()
return {1, version, incarnation, text(now)}
