-- The end of commit.lua; put after lookup.lua.

if reply then return reply end  -- removed
if not next_version then return {1, ARGV[8], ARGV[7], text(now), text(waiting)} end
reply = {1, next_version, inc, text(now), text(waiting)}
if live and waits_on then
  reply[6], reply[7], reply[8] = waits_on, owner, text(expires)
end
return reply
