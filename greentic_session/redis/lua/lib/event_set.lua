-- Trim the ids of events that a sorted set remembers. Include it after a text that sets `now`.
--
-- Reads: now.
-- Functions: trim_events.

-- Removes events older than `ttl_ms`, and the oldest ones above `limit`. Keeps the event `newest`, because the sorted
-- set orders events of the same ms by digest.
local function trim_events(name, newest, limit, ttl_ms)
  redis.call('ZREMRANGEBYSCORE', name, '-inf', string.format('%.0f', now - ttl_ms))
  local surplus = redis.call('ZCARD', name) - limit
  if surplus <= 0 then return end
  for _, event in ipairs(redis.call('ZRANGE', name, '0', tostring(surplus))) do
    if event ~= newest and surplus > 0 then
      redis.call('ZREM', name, event)
      surplus = surplus - 1
    end
  end
end
