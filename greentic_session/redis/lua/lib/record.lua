-- Read the record and the time. Every script that reads or writes a record starts with this text.
--
-- KEYS  1 record   HASH  cas inc owner ttl at body schema ops op0 ... op7: see below. A session that waits or is claimed
--                        also has wait since fence lease start attempt: see lib/wait_state
--       2 lookup   HASH  env/tenant -> the last ms of that tenant's record (since the epoch, 0 never expires)
-- ARGV  1 operation_id     16 hex digits that name this call, the same on each retry
--       2 ambiguous_since  since when an earlier attempt may have been executed (ms since the epoch on this
--                          server's clock, with a fraction), '' if there was none. The client reads the clock before
--                          and after that attempt, and sends the earlier result, because the clock may have been set.
--                          A plus sign in front means that a tombstone of that time has expired by now
--       3 lookup_field     env/tenant, the record's field in the lookup
--
-- Fields of the record:
--    cas    version, which grows by one with each write
--    inc    incarnation
--    owner  team/user
--    ttl    lifetime in ms, 0 never expires
--    at     ms since the epoch: when the lifetime started
--    body   opaque bytes. No script looks into it
--    schema  schema version of the state in the body. Only stores with a schema_version write and check it
--    ops, op0 ... op7  operation log: see below
--    until  ms since the epoch: how long the session's index entries are kept at least, 0 never expires. Absent in a
--           record that no indexing writer has written: see lib/check_entries
--    labels the session's indexed labels, as text. Absent if it has none
--
-- Reads: KEYS 1, ARGV 1-3, LOG_FIELD (the field of the operation log that the script writes. If that is not ops, the
--    script reads ops as well: see lib/update_reply).
-- Sets: KEYS ARGV call operation_id ambiguous_since lookup_field time us now LOG_BYTES, stored (fields cas inc owner
--    ttl at lease wait LOG_FIELD until), version incarnation owner ttl lease waits_on log entries_end, stored_expires,
--    live.
-- Declares, for the script and the later texts to set: next_version next_incarnation, added expires last_ms, deletes,
--    reply.
--
-- Most scripts return {verdict, version, incarnation, at}: an integer, then bulk strings. If the session waits, put,
-- update_cas, touch and commit_turn also return its reply scope, its owner and its expiry. The caller needs them
-- because the index of waits lives in another slot. The header of each script names its replies.
-- Verdicts: 1 done   0 absent   -1 exists   -2 conflict   -3 mismatch   -4 ambiguous   -5 unknown
--           -6 claimed   -7 event seen   -8 claim, lease or turn lost   -10 newer schema version
--           -11 not indexed (see lib/check_entries)
--
-- Why atomic: a script runs alone. It decides first and writes last, because nothing rolls back.
--
-- When memory is full, the first write decides. create, put, update_cas (including the fenced ones), register,
-- end_claim with save, admit and replay_dead_letter begin with a write that the server rejects at maxmemory. The other
-- scripts begin with a write that is allowed at maxmemory, such as HDEL, LREM or PEXPIREAT. After a script's first
-- write the server no longer rejects OOM commands, so these scripts also work when memory is full.
--
-- If a field that decides is missing or has the wrong type, the reply is the error WRONGTYPE, before any write. `at`
-- does not decide for a record that never expires, and a write replaces it. lib/delete_unreadable deletes a record with
-- such a field.
--
-- The operation log consists of the fields ops and op0 to op7. An entry is `id:secs:us:result;`: the operation id,
-- the time since the epoch, and the result. The result is the version that the call wrote, 0 for a touch, d for a
-- delete. update_cas writes its entry to the field of its version modulo 8, and does not move the other entries. The
-- other scripts that change a record put their entry in front of ops. renew_claim, supersede, and a claim that only
-- renews its lease write no entry. The scripts on mailboxes log in the mailbox (see lib/mailbox). commit_turn also
-- logs in ops if it writes or removes the record.
--
-- ops holds the newest entry and the first LOG_BYTES bytes of the older ones. An entry is 36 bytes without its result:
-- 16 of the id, 10 of secs, 6 of us, and 4 separators. So 330 bytes hold eight older entries while versions have up to
-- five digits. A truncated entry counts as gone. When a record ends, lib/merge_operation_log moves all entries to
-- ops. If a call finds its own id, an earlier attempt was executed, or this one arrived late. The script returns that
-- result and executes nothing.
--
-- Measured costs: a command 0.5 us, and each of its fields 0.1 us. A function definition 0.05 us, and 0.05 us more for
-- every two outer locals that the function uses. A number as text 0.3 us, even if it is passed as a number. So the
-- texts that nearly every call runs are not functions.

local KEYS, ARGV, call = KEYS, ARGV, redis.call  -- 0.2 us faster than globals
local operation_id, ambiguous_since, lookup_field = ARGV[1], ARGV[2], ARGV[3]
local LOG_BYTES = 330  -- bytes of older entries that stay after a new one

local time = call('TIME')
local us = time[2] + 0  -- converted once
local now = time[1] * 1000 + (us - us % 1000) / 1000
local stored = call('HMGET', KEYS[1], 'cas', 'inc', 'owner', 'ttl', 'at', 'lease', 'wait', LOG_FIELD, 'until')
local version, incarnation, owner, ttl = stored[1], stored[2], stored[3], stored[4]
local lease, waits_on, log, entries_end = stored[6], stored[7], stored[8] or '', stored[9]
-- A record is absent from the instant it expires. The server may remove it a moment later. Inside a script, Redis 7.0
-- decides about expiry by the time of the script's start, while TIME and PTTL advance. A hash with only ops is a
-- tombstone. While a claim is held, the lifetime counts from the end of its lease.
local stored_expires = 0  -- when the stored record expires, 0 never
if version and ttl ~= '0' then
  local at, ttl_ms = tonumber(stored[5]), tonumber(ttl)
  -- The comparison is also false for nan. Times of this library have up to 15 digits.
  if not (at and ttl_ms and at + ttl_ms < 1e15) then
    return redis.error_reply('WRONGTYPE a field of the record is not of its type')
  end
  stored_expires = at + ttl_ms
end
if lease or version and not (incarnation and owner) then
  local lease_end = tonumber(lease)
  if not (lease_end and incarnation and owner) then
    return redis.error_reply('WRONGTYPE a field of the record is not of its type')
  end
  if stored_expires ~= 0 and lease_end + ttl > stored_expires then stored_expires = lease_end + ttl end
end
local live = version and (stored_expires == 0 or now < stored_expires)

local next_version, next_incarnation, added, expires, last_ms, deletes, reply
