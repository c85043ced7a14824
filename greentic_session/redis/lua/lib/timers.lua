-- Start of the scripts on a shard of timers.
--
-- KEYS  1 timers     ZSET  timer id -> when it is due (ms since the epoch, with three digits after the point).
--                          While it is taken: when the lease of its forwarder ends
--       2 payloads   HASH  timer id -> payload
--       3 taken      HASH  timer id -> `due:start:attempt` of its forwarder
--       4 cancelled  ZSET  `i:` timer id, and `o:` operation id `:` 1 if it was taken, else 0 -> when it was cancelled
-- ARGV  1 operation_id     16 hex digits that name this call, the same on each retry
--       2 ambiguous_since  as for other scripts, see lib/record
--       3 grace_ms         ms for which cancelled timers are remembered, longer than any call takes
--
--    due      ms since the epoch: when the timer became due
--    start    ms since the epoch: when it was taken
--    attempt  names the call that took it
--
-- Reads: KEYS 1-4, ARGV 1-3.
-- Sets: KEYS ARGV call operation_id ambiguous_since grace_ms now (ms since the epoch, with a fraction), is_forgotten
--    (an earlier attempt may have done this call, and nothing remembers it).
-- Functions: score, begin_at_maxmemory, parse_taken, publish_if_first.
--
-- Why atomic: a script runs alone. It decides first and writes last, because nothing rolls back. All keys of a shard
-- have the shard's name in braces, so they are in one slot.

local KEYS, ARGV, call = KEYS, ARGV, redis.call
local operation_id, ambiguous_since, grace_ms = ARGV[1], ARGV[2], ARGV[3]
local time = call('TIME')
local now = time[1] * 1000 + time[2] / 1000
local is_forgotten = string.byte(ambiguous_since) == 43  -- a plus sign
-- These reads fail before the first write if a key holds another type of value.
call('ZCARD', KEYS[1])
call('HLEN', KEYS[2])
call('HLEN', KEYS[3])
call('ZCARD', KEYS[4])

local function score(at)
  return string.format('%.3f', at)
end

-- ZREM is allowed at maxmemory, and after a script's first write the server no longer rejects OOM commands.
-- So the script also works when memory is full.
local function begin_at_maxmemory()
  call('ZREM', KEYS[1], '')
end

-- Returns the due time, start and attempt of a taken timer, nil if it is not taken.
local function parse_taken(line)
  return string.match(line or '', '^([%d.]+):([%d.]+):(.+)$')
end

-- Notifies the forwarders, because they sleep until the timer that was first before.
local function publish_if_first(timer_id, channel)
  if call('ZRANGE', KEYS[1], '0', '0')[1] == timer_id then redis.pcall('PUBLISH', channel, '1') end
end
