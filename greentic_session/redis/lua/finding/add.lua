-- Write the entries of a session in indexes of one slot, before its record in another slot.
--
-- KEYS  1 guards   ZSET  session key, newline, token -> when a write of its entries started, while it is under way.
--                        Session key, newline -> when the last such write ended. In us since the epoch
--       2 and more  ZSET  the indexes, see lib/write_entries
-- ARGV  1 operation_id     not used, because a repeat has the same effect
--       2 ambiguous_since  not used
-- ARGV 1-2: see above.
-- ARGV  3 session_key  session key, escaped
--       4 token        names the write, for finding/end_write
--       5 hold_ms      ms for which the entries hold, 0 without an end
--       6 guard_ms     longer than the write may take. Until then, no reader removes the entries
-- Returns {1}.
-- Verdicts: 1 done
-- Why atomic: a script runs alone, so an entry is never without its guard.

local session_key, token, hold_ms, guard_ms = ARGV[3], ARGV[4], ARGV[5], ARGV[6]
local KEYS, call, FIRST_ENTRY, entry_member = KEYS, redis.call, 2, session_key
local time = call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
-- The record's server has another clock, and it writes the record later.
local entries_until = hold_ms == '0' and '0' or (now + hold_ms + guard_ms) .. ''

local now_us = time[1] * 1000000 + time[2]
call('ZADD', KEYS[1], string.format('%.0f', now_us), session_key .. '\n' .. token)
call('ZREMRANGEBYSCORE', KEYS[1], '-inf', string.format('%.0f', now_us - guard_ms * 1000))
call('PEXPIRE', KEYS[1], guard_ms)

--@include lib/write_entries

return {1}
