-- Append an entry to a stream and publish it. A script sets `epoch` before it includes this text.
--
-- KEYS  STREAM  entries: op (operation id of the send), prev (id of the predecessor), d (message)
--       HEAD    HASH  epoch (incarnation whose entries the stream holds, 'all' for a tenant) last (newest id)
-- ARGV  1-2: see lib/record.
--       3 mark     random number, so no failover gives a known id to another entry
--       4 body     the message
--       5 count    limit on the number of entries
--       6 keep_ms  ms after which an entry is removed
--       7 channel  channel of the stream
--
-- Reads: STREAM, HEAD (names of the keys), epoch, now_ms (ms since the epoch, an integer), ambiguous_since, and the
--    arguments.
-- Returns {1, id, epoch} or {-5}.
--
-- A repeated call finds its operation id in the stream. If the entry may have been trimmed since, its outcome is unknown.
-- Why atomic: a script runs alone. It decides first and writes last, because nothing rolls back.
-- When memory is full, XADD is rejected, and nothing is written. If the entries of an earlier incarnation are removed
-- first, the server no longer rejects it.

local mark, body, count, keep_ms, channel = ARGV[3], ARGV[4], ARGV[5], ARGV[6], ARGV[7]
local stored_epoch, last = unpack(call('HMGET', HEAD, 'epoch', 'last'))
local size = call('XLEN', STREAM)  -- fails before the first write if the key holds another type of value
local is_same = stored_epoch == epoch and last
if ambiguous_since ~= '' then
  if string.byte(ambiguous_since) == 43 or stored_epoch and not is_same then return {-5} end
  local oldest
  for _, entry in ipairs(call('XREVRANGE', STREAM, '+', '-')) do
    if entry[2][2] == operation_id then return {1, entry[1], epoch} end
    oldest = entry[1]
  end
  if size >= tonumber(count) and oldest and tonumber(string.match(oldest, '^%d+')) >= math.floor(ambiguous_since) then
    return {-5}
  end
end
local last_ms, last_mark = string.match(is_same and last or '0-0', '^(%d+)%-(%d+)$')
if not last_ms then return redis.error_reply('WRONGTYPE the last id of the stream is not an id') end
local previous = last_ms .. '-' .. last_mark
if now_ms > tonumber(last_ms) then
  last_ms, last_mark = string.format('%.0f', now_ms), '0'
end
local id = last_ms .. '-' .. string.format('%.0f', last_mark + mark)
if not is_same and (size > 0 or stored_epoch) then call('DEL', STREAM, HEAD) end
call('XADD', STREAM, 'MAXLEN', count, id, 'op', operation_id, 'prev', previous, 'd', body)
call('XTRIM', STREAM, 'MINID', string.format('%.0f', now_ms - keep_ms))
call('HSET', HEAD, 'epoch', epoch, 'last', id)
call('PEXPIRE', STREAM, keep_ms)
call('PEXPIRE', HEAD, keep_ms)
redis.pcall('PUBLISH', channel, previous .. '|' .. id .. '|' .. body)
return {1, id, epoch}
