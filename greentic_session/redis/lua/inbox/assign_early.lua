-- Say of the events that are kept which session each is for: this one, unless it is another's already.
--
-- KEYS, ARGV 1-2, why atomic: see lib/early_event.
-- ARGV  3 key      of the session
--       4 memory   ms to keep events
--       5 gone     key of a session whose events are to be for this one, '' for none
-- Returns {1, key, event, key, event, ...} in order, the events without the keys.

--@include lib/early_event

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local answer = {1}
for i, letter in ipairs(redis.call('LRANGE', KEYS[1], '0', '-1')) do
  local at, key, rest = opened(letter)
  if now < at + ARGV[4] then
    if not key or key == ARGV[5] then
      key = ARGV[3]
      redis.call('LSET', KEYS[1], tostring(i - 1), assigned(at, key, rest))
    end
    answer[#answer + 1] = key
    answer[#answer + 1] = at .. rest
  end
end
return answer
