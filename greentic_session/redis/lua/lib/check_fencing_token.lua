-- Shared by the writes that a lease guards; put after lib/operation_log. The last of ARGV is the fence.
--
-- KEYS  3 guard   HASH  fence   number of the newest grant
--                       lease   when its lease ends (ms since the epoch)
--                       by      who holds it; gone when it was given back, so that a clock which is set back
--                               does not bring it again

local granted = call('HMGET', KEYS[3], 'fence', 'lease', 'by')
local is_held = granted[1] == ARGV[#ARGV] and granted[3] and now < (tonumber(granted[2]) or 0)
