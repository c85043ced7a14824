-- Shared by the scripts that remember completed events; put after a start that tells the time.

-- Drop what is too old and too much, but never the newest: of two events in one millisecond a sorted
-- set would take the one whose digest comes first.
local function trim_events(name, newest, most, ttl)
  redis.call('ZREMRANGEBYSCORE', name, '-inf', string.format('%.0f', now - ttl))
  local surplus = redis.call('ZCARD', name) - most
  if surplus <= 0 then return end
  for _, event in ipairs(redis.call('ZRANGE', name, '0', tostring(surplus))) do
    if event ~= newest and surplus > 0 then
      redis.call('ZREM', name, event)
      surplus = surplus - 1
    end
  end
end
