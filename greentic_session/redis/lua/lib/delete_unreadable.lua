-- Delete a record with a field that is missing or has the wrong type: see lib/record. Include it before lib/record,
-- which refuses such a record.
--
-- KEYS 1-3, ARGV 1-3: see sessions/delete.
-- Reads: exact_owner, shared_owner, expected_incarnation, expected_version, tombstone_ms (of the script).
-- Returns as sessions/delete does, with version '0' and incarnation ''. If the record is absent or readable, the script
-- continues.
--
-- It is unknown whether the record has expired, so it counts as live. The owner must be readable and pass the access
-- check. So a call without a caller gets the error of lib/record.

local unread = redis.call('HMGET', KEYS[1], 'cas', 'inc', 'owner', 'ttl', 'at', 'lease', 'wait', 'since', 'ops')
local unread_at, unread_ttl, unread_owner = tonumber(unread[5]), tonumber(unread[4]), unread[3]
local is_readable = unread_at and unread_ttl and unread_at + unread_ttl < 1e15 and tonumber(unread[1]) and unread[2]
  and (not unread[6] or tonumber(unread[6]))
if unread[1] and not is_readable and unread_owner and exact_owner ~= '' then
  local clock = redis.call('TIME')
  local deleted_at = string.format('%.0f', clock[1] * 1000 + math.floor(clock[2] / 1000))
  local earlier_log = unread[9] or ''
  if string.find(earlier_log, ARGV[1], 1, true) then return {1, '0', '', deleted_at} end
  if string.byte(ARGV[2]) == 43 then return {-5} end  -- as in lib/operation_log
  if unread_owner ~= exact_owner and unread_owner ~= shared_owner and exact_owner ~= '*' then return {-3} end
  if expected_version ~= '' and (unread[1] ~= expected_version or unread[2] ~= expected_incarnation) then
    return {-2, unread[1], unread[2] or ''}
  end
  redis.call('HLEN', KEYS[2])  -- fails before the first write if a key holds another type of value
  redis.call('ZCARD', KEYS[3])
  -- DEL is allowed at maxmemory, and after a script's first write the server no longer rejects OOM commands. So
  -- this also works when memory is full.
  redis.call('DEL', KEYS[3])
  redis.call('DEL', KEYS[1])
  redis.call('HSET', KEYS[1], 'ops',
    ARGV[1] .. ':' .. clock[1] .. ':' .. clock[2] .. ':d;' .. string.sub(earlier_log, 1, 330))
  redis.call('PEXPIRE', KEYS[1], tombstone_ms)
  redis.call('HDEL', KEYS[2], ARGV[3])
  local deleted = {1, '0', '', deleted_at}
  if unread[7] then deleted[5], deleted[6], deleted[7] = unread[7], unread_owner, unread[8] or '0' end
  return deleted
end
