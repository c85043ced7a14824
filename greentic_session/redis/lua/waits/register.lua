-- Write a record and let its session wait; a claim on it is pushed aside.
--
-- KEYS, ARGV 1-3, returns, why atomic: see lib/record and lib/wait_state.
-- ARGV  4 owner     team/user
--       5 ttl       life in ms, 0 never expires
--       6 body      opaque bytes
--       7 expected  incarnation expected
--       8 cas       version expected, '0' for an absent record, '' for any
--       9 inc       incarnation to give a new record
--      10 scope     reply scope, as a hash
--      11 floor     us: since is to be higher
--      12 event     digest of the event that is completed by this, '' for none
--      13 most      how many events to remember
--      14 memory    ms to remember them
-- Returns {1, version, incarnation, at, since, scope left or ''}.
-- Verdicts: 1 done   -2 conflict (with the stored token)   -3 mismatch   -5 unknown   -7 event seen

local RING = 'ops'

--@include lib/record
--@include lib/operation_log
--@include lib/event_set
--@include lib/wait_state
--@include lib/conflict

local mark, done_at, done_inc = recall(ops, live and incarnation)
if mark then
  if mark == '1' then done_inc = ARGV[9] end
  if not done_inc then return {-5} end
  return {1, mark, done_inc, done_at, since, ''}
end
if is_seen(ARGV[12], ARGV[14]) then
  -- By an earlier attempt of this call, perhaps, whose trace is gone.
  return {doubt ~= '' and (overrun(ops, time) or outlived(ARGV[5])) and -5 or -7}
end
if ARGV[8] == '' then
  if overrun(ops, time) then return {-5} end
  if live and owner ~= ARGV[4] then return {-3} end
  if outlived(ARGV[5]) then return {-5} end
elseif ARGV[8] == '0' then
  if overrun(ops, time) then return {-5} end
  if live then
    if owner ~= ARGV[4] then return {-3} end
    return {outlived(ARGV[5]) and -5 or -2, version, incarnation}
  end
  if outlived(ARGV[5]) then return {-5} end
elseif not live or owner ~= ARGV[4] or version ~= ARGV[8] or incarnation ~= ARGV[7] then
  return conflict(ops)
end
local left = live and waits_on and waits_on ~= ARGV[10] and waits_on or ''
local stamp = after(live and since or 0, ARGV[11])
local claimed = lease
next_version, inc = '1', ARGV[9]
if live then
  next_version, inc = text(version + 1), incarnation
  waits_on, lease = nil, nil  -- the life counts from now, and the registry sees to the index
end

--@include lib/merge_operation_log
--@include lib/write_record
--@include lib/update_lookup_ttl

-- The end of waits/register; put after lib/write_record.

if claimed then forget_claim() end
call('HSET', KEYS[1], 'wait', ARGV[10], 'since', stamp)
expire(ends)  -- had the life ended by now, the last line made a record anew
remember_event(ARGV[12], ARGV[13], ARGV[14])
return {1, next_version, inc, text(now), stamp, left}
