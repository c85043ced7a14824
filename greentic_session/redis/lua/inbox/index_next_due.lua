-- Return the session that has been due for longest, and defer it while a worker takes its turn.
--
-- KEYS  1 index    ZSET    see lib/inbox_index
-- ARGV 1-2: see lib/inbox_index.
-- ARGV  3 defer_ms  ms after which the session is due again if the worker dies
--       4 longest_ms  longest time in ms for which this caller defers a session
-- Returns {1, session, its new score}, {0, ms until the next session is due}, or {0}.
-- Verdicts: 1 done   0 no session is due
-- A repeated call does not know which session its earlier attempt returned. So all sessions that were deferred since
-- then become due immediately.
-- If an entry is due later than any worker sets one, the clock was set back. If nothing else is due, the first 10,000
-- such entries become due: a session immediately, a pending entry after longest_ms, because its caller may still run.
-- The mailbox decides when a turn may be taken, and a dead worker's lease then ends earlier: see lib/mailbox.
-- Another worker may have a longer lease. Then its session is looked at once, and becomes due at most longest_ms later.
-- Why atomic: a script runs alone.

local ambiguous_since, defer_ms, longest_ms = ARGV[2], ARGV[3], ARGV[4]

--@include lib/inbox_index

if ambiguous_since ~= '' then requeue_deferred_since(math.min(ambiguous_since + 0, now), defer_ms, '256') end
local first = redis.call('ZRANGE', KEYS[1], '0', '0', 'WITHSCORES')
if not first[1] then return {0} end
if tonumber(first[2]) > now then
  local too_late = redis.call('ZRANGEBYSCORE', KEYS[1], '(' .. score(now + longest_ms), '+inf', 'LIMIT', '0', '10000')
  if too_late[1] then
    redis.call('ZREM', KEYS[1], '')  -- as the first write, because it is allowed at maxmemory: see below
    for i, member in ipairs(too_late) do
      local due_at = session_of_pending(member) and now + longest_ms or now
      redis.call('ZADD', KEYS[1], score(due_at + (i - #too_late) / 1000), member)  -- the order stays
    end
    first = redis.call('ZRANGE', KEYS[1], '0', '0', 'WITHSCORES')
  end
end
if tonumber(first[2]) > now then return {0, string.format('%.0f', math.ceil(first[2] - now))} end
-- ZREM is allowed at maxmemory, and after a script's first write the server no longer rejects OOM commands.
-- So this also works when memory is full.
redis.call('ZREM', KEYS[1], first[1])
local session = session_of_pending(first[1]) or first[1]
local deferred_score = score(now + defer_ms)
redis.call('ZADD', KEYS[1], deferred_score, session)
return {1, session, deferred_score}
