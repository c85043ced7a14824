-- End a held claim, or save under it, and remember its event.
--
-- KEYS, ARGV 1-3, returns, why atomic: see lib/record and lib/wait_state.
-- ARGV  4 owner   team/user
--       5 ttl     life in ms, 0 never expires ('' with finish)
--       6 body    opaque bytes ('' with finish)
--       7 inc     incarnation expected
--       8 cas     version expected
--       9 fence   number of the claim
--      10 how     complete, wait, save or finish
--      11 scope   with wait: reply scope, as a hash
--      12 floor   with wait: us, since is to be higher
--      13 event   digest of the event, '' for none
--      14 most    how many events to remember
--      15 memory  ms to remember them
--      16 keep    ms to keep the ring after finish: see lib/delete_record
-- Returns {1, version, incarnation, at, since}; since is that of the wait that ended, or begins. With save
-- also {..., scope or '', expiry}.
-- Verdicts: 1 done   -2 conflict (with the stored token)   -5 unknown   -8 claim lost

local RING = 'ops'

--@include lib/record
--@include lib/operation_log
--@include lib/event_set
--@include lib/wait_state
--@include lib/conflict

local mark, done_at = recall(ops)
if mark and ARGV[10] == 'save' then
  return told_to_index({1, mark, ARGV[7], done_at}, live and was or 0)
end
if mark then return {1, mark == 'd' and '0' or mark, ARGV[7], done_at, since} end
if not holds(ARGV[9]) then
  if outlived(ARGV[5]) then return {-5} end
  return lost()
end
if version ~= ARGV[8] or incarnation ~= ARGV[7] then return conflict(ops) end
local how = ARGV[10]
if ARGV[13] ~= '' then call('ZCARD', KEYS[3]) end  -- should another type stand there, fail here
if how ~= 'save' then call('HLEN', KEYS[2]) end  -- and under the lookup's name
local where = waits_on
if how == 'finish' then
  keep = ARGV[16]
else
  waits_on = nil  -- the registry sees to the index
  if how ~= 'save' then
    -- Nothing refuses HDEL, and once a script has written, the server lets it finish. So a turn can be
    -- completed when memory is full.
    forget_claim()
  end
  if how == 'complete' then call('HDEL', KEYS[1], 'wait', 'since') end
  next_version, inc = text(version + 1), incarnation
end

--@include lib/merge_operation_log
--@include lib/delete_record
--@include lib/write_record
--@include lib/update_lookup_ttl

-- The end of waits/end_claim; put after lib/write_record.

if how == 'wait' then
  since = after(since, ARGV[12])
  call('HSET', KEYS[1], 'wait', ARGV[11], 'since', since)
  expire(ends)  -- had the life ended by now, the last line made a record anew
end
if how == 'save' then
  waits_on = where
  return told_to_index({1, next_version, inc, text(now)}, expires)
end
remember_event(ARGV[13], ARGV[14], ARGV[15])
if keep then return {1, '0', '', text(now), since} end
return {1, next_version, inc, text(now), since}
