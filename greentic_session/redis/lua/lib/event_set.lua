-- Trim the ids of events that a sorted set remembers. Include it after a text that sets `now`.
--
-- Reads: now.
-- Functions: trim_events.

-- Remove events older than `ttl_ms`, and the oldest ones above `limit`. The newest event stays: if two events have
-- the same ms, the sorted set orders them by digest.
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
