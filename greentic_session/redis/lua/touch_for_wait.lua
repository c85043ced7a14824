-- Write without a change, and then WAIT on this connection covers all writes that the server executed before.
--
-- WAIT counts from the last write of its own connection. A call may be answered by an earlier write, of another
-- connection or of an earlier call. Then this connection has written nothing. The replication stream is ordered, so
-- any write here is behind that one.
--
-- KEYS  1 ...  the keys of the script that was answered. They are the same because a slot that moves then refuses
--              this script whenever it refuses that one
--
-- Returns 1 if one of the keys exists, otherwise 0.
--
-- The script sets the expiry of the first key that exists again. If none exists, it creates and deletes the first key.
-- Nothing is left. Both are executed at maxmemory: PEXPIRE and DEL are allowed, and after a script's first write the
-- server no longer rejects OOM commands.
--
-- Why atomic: a script runs alone, so nothing changes the expiry between PTTL and PEXPIRE, and no other caller sees
-- the created key. PTTL and PEXPIRE read the clock one after the other, so the server's expiry may become some ms
-- later. The fields of a record still decide when the session expires.

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
