-- Writes a record's ring again as it is, so that WAIT on this connection speaks of it.
--
-- WAIT counts from the last write of its own connection. When an earlier attempt of a call wrote over
-- another connection, this one has written nothing yet.
--
-- KEYS  1 record
--
-- Returns 1 if there is a ring, else 0.
--
-- Why atomic: a script runs alone, so no newer ring is written over.

local ops = redis.call('HGET', KEYS[1], 'ops')
if not ops then return 0 end
redis.call('HSET', KEYS[1], 'ops', ops)
return 1
