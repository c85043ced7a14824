-- The end of update_cas, or its verdict on another token than the expected one; lib/operation_log and lib/conflict
-- come between.

if next_version then return {1, next_version, inc, text(now), waits_on, owner, text(expires)} end
local ring = call('HGET', KEYS[1], 'ops') or ''
local mark, done_at = recall(ops)  -- in the slot
if not mark then mark, done_at = recall(ring) end
if not mark then return conflict(ring) end
if live and waits_on then return {1, mark, ARGV[7], done_at, waits_on, owner, text(was)} end
return {1, mark, ARGV[7], done_at}
