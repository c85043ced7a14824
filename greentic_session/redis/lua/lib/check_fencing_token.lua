-- Compare the caller's fencing token with the newest grant of its lease. Include it after lib/record.
--
-- KEYS  3 grant   HASH  fence   number of the newest grant
--                       lease   when its lease ends (ms since the epoch)
--                       by      token of the holder. A release removes it. So the lease does not become valid again
--                               if the clock is set back
--
-- Reads: KEYS 3, now, fencing_token (of the script).
-- Sets: is_held (whether the caller's lease is valid).

local grant = call('HMGET', KEYS[3], 'fence', 'lease', 'by')
local is_held = grant[1] == fencing_token and grant[3] and now < (tonumber(grant[2]) or 0)
