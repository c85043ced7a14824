-- Write the record (ARGV 4 owner, 5 ttl, 6 body), if a verb set `next_version`, a text, and `inc`.

if next_version then
  local ttl, made = ARGV[5], ARGV[1] .. ':' .. time[1] .. ':' .. time[2] .. ':' .. next_version .. ';'
  if RING == 'ops' then made = made .. string.sub(ops, 1, 330) end
  expires, ends = 0, '0'
  if ttl ~= '0' then
    expires = now + ttl
    if live and lease and lease + ttl > expires then expires = lease + ttl end
    ends = (expires - 1) .. ''
  end
  -- First of all, since here the server refuses when it is out of memory, or when something else stands
  -- under the lookup's name.
  added = call('HSET', KEYS[2], field, ends)
  if live then
    call('HSET', KEYS[1], 'cas', next_version, 'ttl', ttl, 'at', now, 'body', ARGV[6], RING, made)
  else
    call('HSET', KEYS[1], 'cas', next_version, 'inc', inc, 'owner', ARGV[4], 'ttl', ttl, 'at', now,
      'body', ARGV[6], RING, made)
    if version then  -- of an expired session that the server still has
      call('HDEL', KEYS[1], 'wait', 'since', 'fence', 'lease', 'attempt',
        'op0', 'op1', 'op2', 'op3', 'op4', 'op5', 'op6', 'op7')
    end
  end
  if ends ~= '0' then
    call('PEXPIREAT', KEYS[1], ends)
  elseif not live or was ~= 0 then
    call('PERSIST', KEYS[1])
  end
end
