-- Start of the scripts on the index of an inbox.
--
-- KEYS  1 index   ZSET  env/tenant/key of a session that may have messages -> when it is due (ms since the
--                       epoch, with three digits after the point)
--                       token!env/tenant/key, a pending entry of a caller that is about to enqueue a message -> when
--                       the session is due if that caller dies
--       2 tenant  ZSET  the entries of one tenant. Absent in a call for all tenants. Where it differs from the index,
--                       the index is right: workers of earlier releases, and calls for all tenants, change only that.
--                       It expires a day after the last write, because inbox/index_next_due restores its entries
-- ARGV  1 operation_id     as for other scripts. Not used here, because a repeated call is idempotent or harmless
--       2 ambiguous_since  as for other scripts. Only inbox/index_next_due uses it
--
-- Reads: KEYS 1-2.
-- Sets: time, now (ms since the epoch, with a fraction).
-- Functions: score, put_entry, remove_entry, session_of_pending, requeue_deferred_since.
--
-- An index entry may be stale, because the mailbox decides. Each change of an entry changes its score. So a worker that
-- found no messages removes the entry only if it was not changed since. A pending entry stays until its caller removes
-- it or its time comes. So a worker that finds no messages yet cannot leave a message without an entry.
--
-- Why atomic: a script runs alone.

local time = redis.call('TIME')
local now = time[1] * 1000 + time[2] / 1000

if KEYS[2] then redis.call('ZCARD', KEYS[2]) end  -- fails before the first write if it is of another type

local function score(at)
  return string.format('%.3f', at)
end

local function put_entry(member, due_score)
  redis.call('ZADD', KEYS[1], due_score, member)
  if KEYS[2] then
    redis.call('ZADD', KEYS[2], due_score, member)
    redis.call('PEXPIRE', KEYS[2], '86400000')
  end
end

local function remove_entry(member)
  redis.call('ZREM', KEYS[1], member)
  if KEYS[2] then redis.call('ZREM', KEYS[2], member) end
end

-- Returns the session of a pending entry, nil for another member. No env contains a `!`.
local function session_of_pending(member)
  return string.match(member, '^%x+!(.+)$')
end

-- Requeues the last `limit` sessions that were deferred by `defer_ms` at `since` or later. The worker for their turns
-- may have died. If a turn is held, the mailbox tells the next worker.
local function requeue_deferred_since(since, defer_ms, limit)
  local from, to = score(since + defer_ms), score(now + defer_ms)
  local deferred = redis.call('ZREVRANGEBYSCORE', KEYS[2] or KEYS[1], to, from, 'LIMIT', '0', limit)
  for _, member in ipairs(deferred) do
    if not session_of_pending(member) then
      -- ZREM is allowed at maxmemory, and after a script's first write the server no longer rejects OOM
      -- commands. So this also works when memory is full.
      remove_entry(member)
      put_entry(member, score(now))
    end
  end
end
