-- Remove stale entries from one index, or give an end to entries that have none.
--
-- KEYS  1 index    ZSET  see lib/write_entries
--       2 guards   ZSET  see finding/add
--       3 and more  HASH  on one server, the records of the sessions, in the order of the arguments
-- ARGV  1 operation_id     not used, because a repeat has the same effect
--       2 ambiguous_since  not used
-- ARGV 1-2: see above.
-- ARGV  3 kind          what has an entry in the index: all, user or label. In a cluster also lower: gives an end
--       4 value         the user or the label as text, '' for all, with lower the end in ms since the epoch
--       5 guard_ms      as in finding/add
--       6 read_at       when the caller began to read the records, in us since the epoch on this server's clock
--     ... session_keys  session keys, escaped
-- Returns {1}.
-- Verdicts: 1 done
-- On one server, this script reads the record again, so an entry is removed only if it is stale now. In a cluster, the
-- caller has read the records since read_at. An entry stays while a write of it is under way, or if one has ended since.
-- Why atomic: a script runs alone.

local kind, value, guard_ms, read_at = ARGV[3], ARGV[4], ARGV[5], ARGV[6]
local call, ENDLESS = redis.call, 1e15
local time = call('TIME')
local now_us = time[1] * 1000000 + time[2]

local guarded = {}
if not KEYS[3] then
  local guards = call('ZRANGEBYSCORE', KEYS[2], string.format('%.0f', now_us - guard_ms * 1000), '+inf', 'WITHSCORES')
  for i = 1, #guards, 2 do
    local member, token = string.match(guards[i], '^([^\n]*)\n(.*)$')
    if token ~= '' or guards[i + 1] - read_at >= 0 then guarded[member] = true end
  end
end

local function is_needed(record, member)
  if not record then return guarded[member] end
  local fields = call('HMGET', record, 'cas', 'owner', 'labels')
  if not fields[1] then return false end
  if kind == 'user' then return string.match(fields[2] or '', '/(.*)$') == value end
  return kind == 'all' or string.find('\n' .. (fields[3] or '') .. '\n', '\n' .. value .. '\n', 1, true)
end

for i = 7, #ARGV do
  if is_needed(KEYS[i - 4], ARGV[i]) then
    -- It stays.
  elseif kind == 'lower' then
    call('ZADD', KEYS[1], 'XX', value, ARGV[i])
  else
    call('ZREM', KEYS[1], ARGV[i])
  end
end
local last = call('ZRANGE', KEYS[1], '-1', '-1', 'WITHSCORES')[2]
if last and last + 0 < ENDLESS then call('PEXPIREAT', KEYS[1], string.format('%.0f', last)) end
return {1}
