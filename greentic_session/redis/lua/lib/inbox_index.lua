-- Start of the scripts on the index of an inbox.
--
-- KEYS  1 index   ZSET  env/tenant/key of a session that may have messages -> when it is due (ms since the
--                       epoch, with three digits after the point)
--                       token!env/tenant/key, a pending entry: a caller is about to enqueue a message -> when
--                       the session is due if that caller dies
-- ARGV  1 operation_id     as for other scripts. Not used here: a repeated call is idempotent or harmless
--       2 ambiguous_since  as for other scripts. Only inbox/index_next_due uses it
--
-- Reads: KEYS 1.
-- Sets: time, now (ms since the epoch, with a fraction).
-- Functions: score, session_of_pending, requeue_deferred_since.
--
-- An index entry may be stale: the mailbox decides. A session's score changes with each change of its entry.
-- So a worker that found no messages removes the entry only if it was not changed since. A pending entry goes
-- when its caller removes it, or when its time has come. So a worker that comes in between, and finds no messages yet,
-- cannot leave a message without an entry.
--
-- Why atomic: a script runs alone.

local time = redis.call('TIME')
local now = time[1] * 1000 + time[2] / 1000

local function score(at)
  return string.format('%.3f', at)
end

-- The session of a pending entry, nil for another member. No env contains a `!`.
local function session_of_pending(member)
  return string.match(member, '^%x+!(.+)$')
end

-- Make the last `limit` sessions due that were deferred by `defer_ms` at `since` or later. The worker that
-- was to take their turns may have died. If a turn is held, the next worker learns that from the mailbox.
local function requeue_deferred_since(since, defer_ms, limit)
  local from, to = score(since + defer_ms), score(now + defer_ms)
  local deferred = redis.call('ZREVRANGEBYSCORE', KEYS[1], to, from, 'LIMIT', '0', limit)
  for _, member in ipairs(deferred) do
    if not session_of_pending(member) then
      -- ZREM is allowed at maxmemory, and after a script's first write the server no longer rejects OOM
      -- commands. So this also works when memory is full.
      redis.call('ZREM', KEYS[1], member)
      redis.call('ZADD', KEYS[1], score(now), member)
    end
  end
end
