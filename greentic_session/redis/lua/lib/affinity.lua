-- Start of the scripts on the members and the placements of a group.
--
-- KEYS  1 ops      ZSET  operation id -> when that call was done (ms since the epoch)
--       2 members  HASH  worker -> `ends:fence:attempt:start`. Also newline fence -> the highest fencing token. It is
--                        kept longer than the members: see lib/fencing_retention
--       3 places   HASH  key -> `expires:ttl:worker` newline `pin`
--       4 ends     ZSET  key -> expires
-- ARGV  1 operation_id     16 hex digits that name this call, the same on each retry
--       2 ambiguous_since  as for other scripts, see lib/record
--       3 grace_ms         ms for which done calls are remembered, longer than any call takes
--
--    ends     ms since the epoch: when the member's lease ends. The member is live while now < ends
--    fence    fencing token of the membership: at least the time of the join in us since the epoch, and higher than
--             the token of every earlier membership under the same name
--    attempt  names the membership
--    start    ms since the epoch: when the lease was granted or renewed last. A worker of an earlier version writes
--             neither start nor the colon before it. If the start is in the future, the clock was set back. Then the
--             lease ends earlier by the same time
--    key      an affinity key: a key, or env/tenant, newline, key
--    expires  ms since the epoch: the placement is present while now < expires
--    ttl      lifetime of the placement in ms, which restarts at each use
--    worker   the worker that was assigned last, '' if none was
--    pin      the worker that the key is pinned to, '' without a pin
--
-- Reads: KEYS 1-4, ARGV 1-3.
-- Sets: KEYS ARGV call operation_id grace_ms time now, is_done (an earlier attempt has done this call), is_forgotten
--    (an earlier attempt may have done this call, and its entry in ops has expired).
-- Functions: whole, last_ms, begin_at_maxmemory, remember, parse_member, find_member, is_live.
--
-- A value of another form counts as absent, and a write replaces it.
--
-- Repeated calls: leave, pin, unpin, touch and forget change the values that decide their reply. So they record their
-- operation id in ops, and a repeated call returns done. The others are idempotent: join and renew compare the attempt,
-- and assign finds its earlier assignment.
--
-- Why atomic: a script runs alone. It decides first and writes last, because nothing rolls back. All keys
-- of a group have the group's name in braces, so they are in one slot.

local KEYS, ARGV, call = KEYS, ARGV, redis.call
local operation_id, grace_ms = ARGV[1], ARGV[3]
local time = call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
-- These reads fail before the first write if a key holds another type of value.
local is_done = call('ZSCORE', KEYS[1], operation_id)
local is_forgotten = not is_done and string.byte(ARGV[2]) == 43  -- a plus sign
call('HLEN', KEYS[2])
call('HLEN', KEYS[3])
call('ZCARD', KEYS[4])

-- A time in us has more digits than Lua writes by default (LUA_NUMBER_FMT is %.14g).
local function whole(number)
  return string.format('%.0f', number)
end

-- The expiry time of a key that is needed until `end_ms`. The server removes a key when now > its time,
-- and immediately if that time has passed. So a key of the last ms lives for one more ms.
local function last_ms(end_ms)
  return whole(math.max(end_ms - 1, now + 1))
end

-- HDEL is allowed at maxmemory, and after a script's first write the server no longer rejects OOM commands.
-- So this also works when memory is full.
local function begin_at_maxmemory()
  call('HDEL', KEYS[2], '')
end

-- Record that this call was done.
local function remember()
  call('ZADD', KEYS[1], whole(now), operation_id)
  call('ZREMRANGEBYSCORE', KEYS[1], '-inf', whole(now - grace_ms))
  call('PEXPIRE', KEYS[1], grace_ms)
end

-- Returns the lease end, fencing token and attempt in a member's value, nil if it has another form. If the clock was
-- set back, writes the member with its new end.
local function parse_member(worker, line)
  local lease_end, fencing_token, stored_attempt, start = string.match(line, '^(%d+):(%d+):(.*):(%d+)$')
  if not lease_end then
    lease_end, fencing_token, stored_attempt = string.match(line, '^(%d+):(%d+):(.*)$')
  end
  if not lease_end then return nil end
  lease_end, start = tonumber(lease_end), tonumber(start) or 0
  if start > now and start < lease_end then
    lease_end = lease_end - (start - now)
    begin_at_maxmemory()
    call('HSET', KEYS[2], worker,
      whole(lease_end) .. ':' .. fencing_token .. ':' .. stored_attempt .. ':' .. whole(now))
  end
  return lease_end, fencing_token, stored_attempt
end

local function find_member(worker)
  return parse_member(worker, call('HGET', KEYS[2], worker) or '')
end

local function is_live(worker)
  local lease_end = worker ~= '' and find_member(worker)
  return lease_end and now < lease_end
end
