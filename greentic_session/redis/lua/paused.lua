-- The end of pause.lua; put after write.lua.

if claimed then forget_claim() end
call('HSET', KEYS[1], 'wait', ARGV[10], 'since', stamp)
expire(ends)  -- had the life ended by now, the last line made a record anew
remember_event(ARGV[12], ARGV[13], ARGV[14])
return {1, next_version, inc, text(now), stamp, left}
