-- Delete the record and its field in the lookup if the script has set `deletes`. The script has checked the type of the
-- lookup's key before. A tombstone stays. A retry of this call finds its result there, so it does not delete a record
-- that was created under the key since.
--
-- Reads: KEYS 1-2, deletes, tombstone_ms (of the script: how long the tombstone stays), and the locals of lib/record
--    and lib/operation_log.
-- Sets: added (removed fields in the lookup: 1 or 0).

if deletes then
  -- DEL is allowed at maxmemory, and after a script's first write the server no longer rejects OOM commands. So
  -- this also works when memory is full.
  call('DEL', KEYS[1])
  call('HSET', KEYS[1], 'ops', append_to_log(log, 'd'))
  call('PEXPIRE', KEYS[1], tombstone_ms)
  added = call('HDEL', KEYS[2], lookup_field)
end
