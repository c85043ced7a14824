-- Keep an event for the session that will wait for it.
--
-- KEYS  1 early    LIST  events, the oldest first: as the letters in mailbox.lua
-- ARGV  1, 2       as for other scripts; not needed here: a repeated call finds its own event
--       3 id       `length:owner length:id` of the event, without the blank
--       4 payload  opaque bytes
--       5 most     how many may be kept
--       6 memory   ms to keep them
-- Verdicts: 1 done   -7 it is kept   -9 full
-- Why atomic: a script runs alone.

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local kept, gone = redis.call('LRANGE', KEYS[1], '0', '-1'), 0
for _, letter in ipairs(kept) do
  local start = string.find(letter, ':', 1, true)
  if now >= string.sub(letter, 1, start - 1) + ARGV[6] then
    gone = gone + 1
  elseif string.sub(letter, start + 1, start + #ARGV[3]) == ARGV[3] then
    return {-7}
  end
end
if #kept - gone >= tonumber(ARGV[5]) then return {-9} end
redis.call('RPUSH', KEYS[1], string.format('%.0f', now) .. ':' .. ARGV[3] .. ARGV[4])
if gone > 0 then redis.call('LTRIM', KEYS[1], gone .. '', '-1') end
redis.call('PEXPIREAT', KEYS[1], string.format('%.0f', now + ARGV[6] - 1))
return {1}
