-- Write to a record without a change, and then WAIT on this connection covers the record.
--
-- WAIT counts from the last write of its own connection. If an earlier attempt of a call wrote over another
-- connection, this connection has written nothing. The script sets the expiry again, because a server whose memory is
-- full accepts PEXPIRE.
--
-- KEYS  1 record
--
-- Returns 1 if there is a record or a tombstone, otherwise 0.
--
-- Why atomic: a script runs alone, so nothing changes the expiry between PTTL and PEXPIRE. The two commands read the
-- clock one after the other, so the server's expiry may become some ms later. The fields of the record still decide
-- when the session expires.

local left = redis.call('PTTL', KEYS[1])
if left == -2 then return 0 end
if left == -1 then
  redis.call('PEXPIRE', KEYS[1], '86400000')
  redis.call('PERSIST', KEYS[1])
else
  redis.call('PEXPIRE', KEYS[1], left)
end
return 1
