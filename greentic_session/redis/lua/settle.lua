-- End a held claim, or save under it, and remember its event.
--
-- KEYS, ARGV 1-3, returns, why atomic: see record.lua and wait.lua.
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
--      16 keep    ms to keep the ring after finish: see remove.lua
-- Returns {1, version, incarnation, at, since}; since is that of the wait that ended, or begins. With save
-- also {..., scope or '', expiry}.
-- Verdicts: 1 done   -2 conflict (with the stored token)   -5 unknown   -8 claim lost

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
local where = waits_on
if how == 'finish' then
  keep = ARGV[16]
else
  waits_on = nil  -- the registry sees to the index
  if how ~= 'save' then
    -- Nothing refuses HDEL, and once a script has written, the server lets it finish. So a turn can be
    -- completed when memory is full.
    call('HLEN', KEYS[2])  -- should another type stand there, fail here
    forget_claim()
  end
  if how == 'complete' then call('HDEL', KEYS[1], 'wait', 'since') end
  next_version, inc = text(version + 1), incarnation
end
