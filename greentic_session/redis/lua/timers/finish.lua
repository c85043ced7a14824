-- Remove or postpone timers that an attempt took.
--
-- KEYS  1 timers     ZSET  see lib/timers
--       2 payloads   HASH  see lib/timers
--       3 taken      HASH  see lib/timers
--       4 cancelled  ZSET  see lib/timers
-- ARGV 1-2: see lib/timers.
-- ARGV  3 grace_ms  ms for which cancelled timers are remembered
--       4 attempt   the attempt of timers/take
--       5 channel   channel of the notification
--       6 ...       pairs: a timer id, and ms since the epoch when it is due again, '' to remove it
-- Returns {1}.
-- Verdicts: 1 done
-- A timer that this attempt no longer holds stays unchanged, so a repeated call is idempotent.
-- Why atomic: a script runs alone. It decides first and writes last, because nothing rolls back.

local attempt, channel = ARGV[4], ARGV[5]

--@include lib/timers

begin_at_maxmemory()
for i = 6, #ARGV, 2 do
  local timer_id, again = ARGV[i], ARGV[i + 1]
  local _, _, holder = parse_taken(call('HGET', KEYS[3], timer_id))
  if holder == attempt then
    call('HDEL', KEYS[3], timer_id)
    if again == '' then
      call('ZREM', KEYS[1], timer_id)
      call('HDEL', KEYS[2], timer_id)
    else
      call('ZADD', KEYS[1], score(tonumber(again)), timer_id)
      publish_if_first(timer_id, channel)
    end
  end
end
return {1}
