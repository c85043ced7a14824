-- Write the record if the script has set `next_version`, a text, and `next_incarnation`.
--
-- Reads: KEYS 1-2, new_owner, new_ttl_ms, new_body, new_labels and new_schema_version (of the script, nil for none),
--    next_version, next_incarnation, LOG_FIELD, entries_until of lib/check_entries, and the locals of lib/record.
-- Sets: added (new fields in the lookup: 1 or 0), expires (when the record expires, a number, 0 never), last_ms (the
--    last ms before it expires, as text, '0' if it never does).

if next_version then
  local entry = operation_id .. ':' .. time[1] .. ':' .. time[2] .. ':' .. next_version .. ';'
  if LOG_FIELD == 'ops' then entry = entry .. string.sub(log, 1, LOG_BYTES) end
  expires, last_ms = 0, '0'
  if new_ttl_ms ~= '0' then
    expires = now + new_ttl_ms
    if live and lease and lease + new_ttl_ms > expires then expires = lease + new_ttl_ms end
    last_ms = (expires - 1) .. ''
  end
  -- This is the first write, except after lib/write_entries, which the server rejects as well, and except in
  -- commit_turn and some modes of end_claim. The server rejects it when memory is
  -- full, or when the lookup's key holds another type of value, so nothing else is written then.
  added = call('HSET', KEYS[2], lookup_field, last_ms)
  if live then
    call('HSET', KEYS[1], 'cas', next_version, 'ttl', new_ttl_ms, 'at', now, 'body', new_body, LOG_FIELD, entry)
  else
    call('HSET', KEYS[1], 'cas', next_version, 'inc', next_incarnation, 'owner', new_owner, 'ttl', new_ttl_ms,
      'at', now, 'body', new_body, LOG_FIELD, entry)
    if version then  -- the stored session has expired, and the server has not removed it
      call('HDEL', KEYS[1], 'schema', 'wait', 'since', 'fence', 'lease', 'start', 'attempt',
        'op0', 'op1', 'op2', 'op3', 'op4', 'op5', 'op6', 'op7', 'until', 'labels')
    end
  end
--@include lib/write_labels
  if new_schema_version then call('HSET', KEYS[1], 'schema', new_schema_version) end
  if last_ms ~= '0' then
    call('PEXPIREAT', KEYS[1], last_ms)
  elseif not live or stored_expires ~= 0 then
    call('PERSIST', KEYS[1])
  end
end
