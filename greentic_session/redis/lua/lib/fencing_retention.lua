-- Returns how long the newest fencing token of a key is kept after its lease. Include it before the texts that
-- call it.
--
-- A new token is at least the time in us. While the clock moves forward, that is higher than every earlier token. The
-- kept token matters if the clock is set back, or if a server takes over whose clock is behind. It is kept until the
-- clock is FENCING_RETENTION past the token's own time. After that, a token can only go back if the clock falls
-- FENCING_RETENTION or more below its highest reading.
--
-- A client's floor may be far ahead of this server's clock. So a token is kept for at most two FENCING_RETENTION.
--
-- Functions: retention_end.

local FENCING_RETENTION = 3600000  -- ms

local function retention_end(token, now)
  return math.min(math.floor(token / 1000), now + FENCING_RETENTION) + FENCING_RETENTION
end
