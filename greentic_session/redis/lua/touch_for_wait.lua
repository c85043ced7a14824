-- Write without changing a value, so that WAIT on this connection covers all earlier writes of the server.
--
-- WAIT covers the writes of its own connection. The reply to a call may rest on an earlier write, by another connection
-- or by an earlier call. Then this connection may have written nothing. The replication stream is ordered, so a write
-- on this connection comes after that earlier write.
--
-- KEYS  1 ...  the keys of the script that replied. With the same keys, a server refuses this script during a move of
--              the slot whenever it refuses that one
--
-- Returns 1 if one of the keys exists, otherwise 0.
--
-- The script sets the expiry of the first existing key to its current value. If no key exists, it creates and deletes
-- the first key, so nothing remains. Both work at maxmemory: PEXPIRE and DEL are allowed, and after a script's first
-- write the server no longer rejects OOM commands.
--
-- Why atomic: a script runs alone, so no other caller changes the expiry between PTTL and PEXPIRE or sees the created
-- key. PTTL and PEXPIRE read the clock one after the other, so the server's expiry may move some ms later. The fields
-- of a record still decide when the session expires.

for _, key in ipairs(KEYS) do
  local left = redis.call('PTTL', key)
  if left == -1 then
    redis.call('PEXPIRE', key, '86400000')
    redis.call('PERSIST', key)
    return 1
  end
  if left ~= -2 then
    redis.call('PEXPIRE', key, math.max(left, 1))  -- PEXPIRE with 0 would delete the key
    return 1
  end
end
redis.call('DEL', KEYS[1])
redis.call('HSET', KEYS[1], '', '')
redis.call('DEL', KEYS[1])
return 0
