-- Release a held claim. The record's lifetime restarts.
--
-- KEYS  1 record   HASH  see lib/record
--       2 lookup   HASH  see lib/record
--       3 events   ZSET  see lib/wait_state
-- ARGV 1-3: see lib/record.
-- ARGV  4 fencing_token  fencing token of the claim
--       5 claim_attempt  attempt that holds the claim, if the caller does not know the fencing token, otherwise ''
--       6 channel        channel of the notification that the claim has ended
-- Returns {1, version, incarnation, at, since, scope or '', expiry}, or {verdict}.
-- Verdicts: 1 done   -5 unknown   -8 claim lost
-- Why atomic: a script runs alone. It decides first and writes last, because nothing rolls back.

local fencing_token, claim_attempt, channel = ARGV[4], ARGV[5], ARGV[6]
local LOG_FIELD = 'ops'

--@include lib/record
--@include lib/operation_log
--@include lib/event_set
--@include lib/wait_state

local result, done_at = find_earlier_attempt(log)
if result then
  return with_index_update({1, version or '0', incarnation or '', done_at}, live and stored_expires or 0)
end
if not holds_claim(fencing_token) and not (live and lease and attempt == claim_attempt) then
  return claim_lost_reply()
end
call('HLEN', KEYS[2])  -- fails before the first write if the key holds another type of value
remove_claim()
expires, last_ms = expiry_from(now, ttl)
call('HSET', KEYS[1], 'at', text(now), 'ops', append_to_log(log, '0'))
expire_record(last_ms)
added = call('HSET', KEYS[2], lookup_field, last_ms)
reply = with_index_update({1, version, incarnation, text(now)}, expires)
redis.pcall('PUBLISH', channel, '1')

--@include lib/update_lookup_ttl

return reply
