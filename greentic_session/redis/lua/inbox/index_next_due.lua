-- Return the session that has been due for longest, and defer it while a worker takes its turn.
--
-- KEYS  1 index    ZSET    see lib/inbox_index
--       2 clock    HASH    noted, the last time when no session was due (ms since the epoch, with a fraction). Present
--                  while sessions are due later
-- ARGV 1-2: see lib/inbox_index.
-- ARGV  3 defer_ms  ms after which the session is due again if the worker dies
-- Returns {1, session, its new score}, {0, ms until the next session is due}, or {0}.
-- Verdicts: 1 done   0 no session is due
-- A repeated call does not know which session its earlier attempt returned. So all sessions that were deferred since
-- then become due immediately.
-- If the clock is behind the noted time, it was set back. Then the first 10,000 sessions become due. Their mailboxes
-- decide when a turn may be taken, and a dead worker's lease then ends earlier: see lib/mailbox.
-- Why atomic: a script runs alone.

local ambiguous_since, defer_ms = ARGV[2], ARGV[3]

--@include lib/inbox_index

if ambiguous_since ~= '' then requeue_deferred_since(math.min(ambiguous_since + 0, now), defer_ms, '256') end
local first = redis.call('ZRANGE', KEYS[1], '0', '0', 'WITHSCORES')
if not first[1] then return {0} end
if tonumber(first[2]) > now then
  local noted = tonumber(redis.call('HGET', KEYS[2], 'noted') or 0) or 0
  if noted > now then
    local later = redis.call('ZRANGE', KEYS[1], '0', '9999')
    redis.call('ZREM', KEYS[1], '')  -- as the first write, because it is allowed at maxmemory: see below
    for i = 1, #later do
      redis.call('ZADD', KEYS[1], score(now + (i - 1) / 1000), later[i])  -- the order stays
    end
    first = redis.call('ZRANGE', KEYS[1], '0', '0', 'WITHSCORES')
  end
  -- When memory is full, HSET fails, and the time is not noted.
  if type(redis.pcall('HSET', KEYS[2], 'noted', score(now))) == 'number' then
    redis.call('PEXPIREAT', KEYS[2], string.format('%.0f', math.max(first[2], now) + 60000))
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
