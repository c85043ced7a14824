-- Renew the lease of a held claim.
--
-- KEYS  1 record   HASH  see lib/record
--       2 lookup   HASH  see lib/record
--       3 events   ZSET  see lib/wait_state
-- ARGV 1-3: see lib/record.
-- ARGV  4 fencing_token  fencing token of the claim
--       5 lease_ms       length of the lease in ms, from now
-- Returns {1, lease end in ms, ms left, since, scope or '', expiry}, or {verdict}.
-- Verdicts: 1 done   -8 claim lost
-- A repeated call renews again, so the operation log has no entry for it.
-- Why atomic: a script runs alone. It decides first and writes last, because nothing rolls back.

local fencing_token, lease_ms = ARGV[4], ARGV[5]
local LOG_FIELD = 'ops'

--@include lib/record
--@include lib/operation_log
--@include lib/event_set
--@include lib/wait_state

if not holds_claim(fencing_token) then return {-8} end
local lease_end = math.max(now + lease_ms, lease)
if lease_end > lease + 0 then lease_start = now end
lease = text(lease_end)
expires, last_ms = expiry_from(now, ttl, lease)
call('HLEN', KEYS[2])  -- fails before the first write if the key holds another type of value
expire_record(last_ms)
call('HSET', KEYS[1], 'lease', lease, 'start', text(lease_start))
added = call('HSET', KEYS[2], lookup_field, last_ms)
reply = with_index_update({1, lease, text(lease_end - now)}, expires)

--@include lib/update_lookup_ttl

return reply
