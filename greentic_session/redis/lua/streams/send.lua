-- Append a message to the stream of a live session, and publish it.
--
-- KEYS  1 record  HASH    see lib/record
--       2 stream  STREAM  see lib/stream
--       3 head    HASH    see lib/stream
-- ARGV: see lib/stream.
-- Returns {1, id, incarnation} or {verdict}.
-- Verdicts: 1 done   0 no live session   -5 unknown
-- Why atomic: a script runs alone. It decides first and writes last, because nothing rolls back.

local KEYS, ARGV, call = KEYS, ARGV, redis.call
local operation_id, ambiguous_since = ARGV[1], ARGV[2]
local STREAM, HEAD = KEYS[2], KEYS[3]
local time = call('TIME')
local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)
local stored = call('HMGET', KEYS[1], 'inc', 'ttl', 'at', 'lease')
local epoch, ttl, at = stored[1], tonumber(stored[2]), tonumber(stored[3])
if epoch and not (ttl and (ttl == 0 or at)) then
  return redis.error_reply('WRONGTYPE a field of the record is not of its type')
end
local is_live = epoch and (ttl == 0 or now_ms < math.max(at, tonumber(stored[4]) or 0) + ttl)
-- An earlier attempt may have been executed on a record that has ended since.
if not is_live then return {ambiguous_since == '' and 0 or -5} end

--@include lib/stream
