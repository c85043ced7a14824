-- Restart the lifetime of a live record. Version and body stay.
--
-- KEYS  1 record   HASH  see lib/record
--       2 lookup   HASH  see lib/record
--       3 and more  ZSET  the indexes, see lib/write_entries
-- ARGV 1-3: see lib/record.
-- ARGV  4 exact_owner   owner whose record may be touched: the caller's own, '' for a call without a caller,
--                       '*' for any owner
--       5 shared_owner  owner whose record may also be touched: the caller's team without a user
--       6 new_ttl_ms    new lifetime in ms, 0 never expires, '' keeps the stored one
--       7 held_ms       see lib/check_entries
--       8 new_labels    see lib/check_entries
-- Returns {1, version, incarnation, at}, or {verdict}. If the session waits, its reply scope, its owner and its expiry
-- follow.
-- Verdicts: 1 done   0 absent   -3 mismatch   -4 ambiguous   -5 unknown   -11 not indexed
-- Why atomic: a script runs alone. It decides first and writes last, because nothing rolls back.

local exact_owner, shared_owner, new_ttl_ms = ARGV[4], ARGV[5], ARGV[6]
local held_ms, new_labels = ARGV[7], ARGV[8]
local LOG_FIELD, FIRST_ENTRY = 'ops', 3

--@include lib/record
--@include lib/operation_log
--@include lib/check_access

local result, at = find_earlier_attempt(log)
if not result then
  if refusal == 0 and may_have_expired(new_ttl_ms) then
    return {-5}  -- an earlier attempt may have set a short lifetime that has expired
  end
  if log_overrun(log) then return {-5} end
  if refusal then return {refusal} end
  if not tonumber(version) then return redis.error_reply('WRONGTYPE the version of the record is not a number') end
  if new_ttl_ms == '' then new_ttl_ms = ttl end
end
local is_writing = not result

--@include lib/check_entries

if not result then
  at = text(now)
  expires, last_ms = expiry_from(now, new_ttl_ms, lease)
  call('HLEN', KEYS[2])  -- fails before the first write if the key holds another type of value
  -- PEXPIREAT is allowed at maxmemory, and after a script's first write the server no longer rejects OOM commands.
  -- So this also works when memory is full.
  expire_record(last_ms)
  if call('HSET', KEYS[1], 'ttl', new_ttl_ms, 'at', at, 'ops', append_to_log(log, '0')) > 1 then
    -- The new expiry had passed, so the server removed the record. Then HSET created a hash without an expiry.
    expire_record(last_ms)
  end
  added = call('HSET', KEYS[2], lookup_field, last_ms)
  if entries_until then
    call('HSET', KEYS[1], 'until', entries_until)
    expire_record(last_ms)  -- as above
  end
end

--@include lib/write_entries

if live and waits_on then
  reply = {1, version, incarnation, at, waits_on, owner, text(expires or stored_expires)}
else
  reply = {1, version or '0', incarnation or '', at}
end

--@include lib/update_lookup_ttl

return reply
