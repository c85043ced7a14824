-- Keep an event for the session that will wait for it.
--
-- KEYS, ARGV 1-2, why atomic: see lib/early_event.
-- ARGV  3 id       `length:owner length:id` of the event, without the blank
--       4 payload  opaque bytes
--       5 most     how many may be kept
--       6 memory   ms to keep them
-- Verdicts: 1 done   -7 it is kept   -9 full

--@include lib/early_event

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local kept, gone = redis.call('LRANGE', KEYS[1], '0', '-1'), 0
for i, letter in ipairs(kept) do
  local at, _, rest = opened(letter)
  if now >= at + ARGV[6] then
    if gone == i - 1 then gone = i end  -- should the clock have been set back, not those behind others
  elseif string.sub(rest, 2, 1 + #ARGV[3]) == ARGV[3] then
    return {-7}
  end
end
if #kept - gone >= tonumber(ARGV[5]) then return {-9} end
redis.call('RPUSH', KEYS[1], string.format('%.0f', now) .. ':' .. ARGV[3] .. ARGV[4])
if gone > 0 then redis.call('LTRIM', KEYS[1], gone .. '', '-1') end
redis.call('PEXPIREAT', KEYS[1], string.format('%.0f', now + ARGV[6] - 1))
return {1}
