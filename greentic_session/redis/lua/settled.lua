-- The end of settle.lua; put after write.lua.

if how == 'wait' then
  since = after(since, ARGV[12])
  call('HSET', KEYS[1], 'wait', ARGV[11], 'since', since)
  expire(ends)  -- had the life ended by now, the last line made a record anew
end
if how == 'save' then
  waits_on = where
  return told_to_index({1, next_version, inc, text(now)}, expires)
end
remember_event(ARGV[13], ARGV[14], ARGV[15])
if keep then return {1, '0', '', text(now), since} end
return {1, next_version, inc, text(now), since}
