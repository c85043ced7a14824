-- Claim a wait, which changes the token, or renew the lease of the claim that the same attempt holds.
--
-- KEYS  1 record   HASH  see lib/record
--       2 lookup   HASH  see lib/record
--       3 events   ZSET  see lib/wait_state
--       4 token    HASH  fence, the fencing token of the newest claim. It is kept longer than the record: see
--                  lib/fencing_retention
-- ARGV 1-3: see lib/record.
-- ARGV  4 expected_owner  team/user
--       5 scope_hash      reply scope, as a hash
--       6 claim_attempt   names the attempt
--       7 event           digest of the event, '' for none
--       8 lease_ms        length of the lease in ms
--       9 event_ttl_ms    ms for which completed events are remembered
--      10 fencing_floor   in us. The new fencing token is higher
-- Returns {1, version, incarnation, at, ttl, body, fencing token, lease end in ms, ms left, since, scope, expiry},
-- {-6, lease end in ms, ms left}, or {verdict}.
-- Verdicts: 1 done   0 absent   -6 claimed   -7 event seen
-- A repeated call finds its own attempt.
-- Why atomic: a script runs alone. It decides first and writes last, because nothing rolls back.

local expected_owner, scope_hash, claim_attempt = ARGV[4], ARGV[5], ARGV[6]
local event, lease_ms, event_ttl_ms, fencing_floor = ARGV[7], ARGV[8], ARGV[9], ARGV[10]
local LOG_FIELD = 'ops'

--@include lib/record
--@include lib/operation_log
--@include lib/event_set
--@include lib/wait_state
--@include lib/fencing_retention

if is_seen(event, event_ttl_ms) then return {-7} end
if not live or owner ~= expected_owner or waits_on ~= scope_hash then return {0} end
-- An earlier attempt was executed, or this one arrived late, and its claim has ended since.
if find_earlier_attempt(log) and not (lease and attempt == claim_attempt) then return {0} end
local lease_end, at, new_log, is_new = now + lease_ms, text(now), log, true
if lease and now < tonumber(lease) then
  if attempt ~= claim_attempt then return {-6, lease, text(lease - now)} end
  lease_end, at, is_new = math.max(lease_end, lease), stored[5], false
  if lease_end > lease + 0 then lease_start = now end
else
  -- HGET fails before the first write if the key holds another type of value.
  if fence == '0' then fence = tonumber(call('HGET', KEYS[4], 'fence') or 0) or 0 end
  lease_start = now
  fence, version = later_than(fence, fencing_floor), text(version + 1)
  new_log = append_to_log(log, version)
end
lease = text(lease_end)
expires, last_ms = expiry_from(now, ttl, lease)
call('HLEN', KEYS[2])  -- fails before the first write if the key holds another type of value
-- PEXPIREAT is allowed at maxmemory, and after a script's first write the server no longer rejects OOM commands. So
-- this also works when memory is full.
expire_record(last_ms)
call('HSET', KEYS[1], 'cas', version, 'at', at, 'lease', lease, 'start', lease_start, 'attempt', claim_attempt,
  'fence', fence, 'ops', new_log)
if is_new and type(redis.pcall('HSET', KEYS[4], 'fence', fence)) == 'number' then
  call('PEXPIREAT', KEYS[4], text(retention_end(fence, now)))
end
added = call('HSET', KEYS[2], lookup_field, last_ms)
reply = with_index_update({1, version, incarnation, at, ttl, call('HGET', KEYS[1], 'body'), fence, lease,
  text(lease_end - now)}, expires)

--@include lib/update_lookup_ttl

return reply
