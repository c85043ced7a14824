-- Append a message to the stream of a tenant, and publish it.
--
-- KEYS  1 stream  STREAM  see lib/stream
--       2 head    HASH    see lib/stream
-- ARGV: see lib/stream.
-- Returns {1, id, 'all'} or {verdict}.
-- Verdicts: 1 done   -5 unknown
-- Why atomic: a script runs alone. It decides first and writes last, because nothing rolls back.

local KEYS, ARGV, call = KEYS, ARGV, redis.call
local operation_id, ambiguous_since = ARGV[1], ARGV[2]
local STREAM, HEAD = KEYS[1], KEYS[2]
local time = call('TIME')
local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)
local epoch = 'all'

--@include lib/stream
