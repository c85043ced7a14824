-- Enter a timer, and notify the forwarders if it is the first one to become due.
--
-- KEYS  1 timers     ZSET  see lib/timers
--       2 payloads   HASH  see lib/timers
--       3 taken      HASH  see lib/timers
--       4 cancelled  ZSET  see lib/timers
-- ARGV 1-2: see lib/timers.
-- ARGV  3 grace_ms  ms for which cancelled timers are remembered
--       4 timer_id  the timer
--       5 payload   its payload, '' to keep the stored one
--       6 at_ms     ms since the epoch: when it is due, '' to count from now
--       7 delay_ms  ms from now until it is due, without at_ms
--       8 replaces  '1' to replace a timer with this id
--       9 channel   channel of the notification
-- Returns {verdict, when the stored timer is due}, or {verdict} if none is stored.
-- Verdicts: 1 done   0 absent, and no payload   -1 exists   -5 unknown
-- A repeated call finds its timer with the same payload. If the timer was cancelled since, the cancellation is
-- remembered. If it fired since, it is entered again, and the receiver deduplicates.
-- Why atomic: a script runs alone. It decides first and writes last, because nothing rolls back.

local timer_id, payload, at_ms, delay_ms, replaces, channel = ARGV[4], ARGV[5], ARGV[6], ARGV[7], ARGV[8], ARGV[9]

--@include lib/timers

local stored = call('HGET', KEYS[2], timer_id)
if ambiguous_since ~= '' and call('ZSCORE', KEYS[4], 'i:' .. timer_id) then return {1} end
if stored and payload ~= '' and replaces ~= '1' then
  local due = parse_taken(call('HGET', KEYS[3], timer_id)) or call('ZSCORE', KEYS[1], timer_id) or score(now)
  if ambiguous_since ~= '' and stored == payload then return {1, due} end
  return {-1, due}
end
if not stored then
  if payload == '' then return {0} end
  if is_forgotten then return {-5} end
end
local due = score(at_ms ~= '' and tonumber(at_ms) or now + delay_ms)
call('HDEL', KEYS[3], timer_id)
if payload ~= '' then call('HSET', KEYS[2], timer_id, payload) end
call('ZADD', KEYS[1], due, timer_id)
publish_if_first(timer_id, channel)
return {1, due}
