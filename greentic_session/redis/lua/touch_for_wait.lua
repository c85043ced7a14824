-- Writes to a record what is there already, so that WAIT on this connection speaks of the record.
--
-- WAIT counts from the last write of its own connection. When an earlier attempt of a call wrote over
-- another connection, this one has written nothing yet. The life is what is written: a server that is
-- out of memory refuses no PEXPIRE.
--
-- KEYS  1 record
--
-- Returns 1 if there is a record, or what a delete leaves of one, else 0.
--
-- Why atomic: a script runs alone, and time stands still in it, so the life stays what it was.

local left = redis.call('PTTL', KEYS[1])
if left == -2 then return 0 end
if left == -1 then
  redis.call('PEXPIRE', KEYS[1], '86400000')
  redis.call('PERSIST', KEYS[1])
else
  redis.call('PEXPIRE', KEYS[1], left)
end
return 1
