-- Writes a field of a record again as it is, so that WAIT on this connection speaks of the record.
--
-- WAIT counts from the last write of its own connection. When an earlier attempt of a call wrote over
-- another connection, this one has written nothing yet.
--
-- KEYS  1 record
--
-- Returns 1 if there is a record, or what a delete leaves of one, else 0.
--
-- Why atomic: a script runs alone, so nothing newer is written over.

for _, field in ipairs({'cas', 'ops'}) do
  local value = redis.call('HGET', KEYS[1], field)
  if value then
    redis.call('HSET', KEYS[1], field, value)
    return 1
  end
end
return 0
