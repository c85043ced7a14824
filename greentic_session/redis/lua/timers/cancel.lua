-- Remove a timer.
--
-- KEYS  1 timers     ZSET  see lib/timers
--       2 payloads   HASH  see lib/timers
--       3 taken      HASH  see lib/timers
--       4 cancelled  ZSET  see lib/timers
-- ARGV 1-2: see lib/timers.
-- ARGV  3 grace_ms  ms for which cancelled timers are remembered
--       4 timer_id  the timer
-- Returns {1, 1 if a forwarder had taken the timer, else 0}, or {verdict}.
-- Verdicts: 1 done   0 absent   -5 unknown
-- A repeated call finds its operation id in cancelled.
-- Why atomic: a script runs alone. It decides first and writes last, because nothing rolls back.

local timer_id = ARGV[4]

--@include lib/timers

if ambiguous_since ~= '' then
  for was_taken = 0, 1 do
    if call('ZSCORE', KEYS[4], 'o:' .. operation_id .. ':' .. was_taken) then return {1, was_taken} end
  end
end
if call('HEXISTS', KEYS[2], timer_id) == 0 then return {is_forgotten and -5 or 0} end
local was_taken = call('HEXISTS', KEYS[3], timer_id)
begin_at_maxmemory()
call('ZREM', KEYS[1], timer_id)
call('HDEL', KEYS[2], timer_id)
call('HDEL', KEYS[3], timer_id)
call('ZREMRANGEBYSCORE', KEYS[4], '-inf', score(now - grace_ms))
call('ZADD', KEYS[4], score(now), 'i:' .. timer_id, score(now), 'o:' .. operation_id .. ':' .. was_taken)
call('PEXPIRE', KEYS[4], grace_ms)
return {1, was_taken}
