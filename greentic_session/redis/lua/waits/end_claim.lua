-- Save under a held claim, or end the claim and remember its event.
--
-- KEYS  1 record   HASH  see lib/record
--       2 lookup   HASH  see lib/record
--       3 events   ZSET  see lib/wait_state
--       4 and more  ZSET  the indexes, see lib/write_entries
-- ARGV 1-3: see lib/record.
-- ARGV  4 new_owner             team/user
--       5 new_ttl_ms            lifetime in ms, 0 never expires ('' with finish)
--       6 new_body              opaque bytes ('' with finish)
--       7 expected_incarnation  incarnation of the expected token
--       8 expected_version      version of the expected token
--       9 fencing_token         fencing token of the claim
--      10 mode                  complete, wait, save or finish
--      11 scope_hash            with wait: reply scope, as a hash
--      12 since_floor           with wait: in us. The new since is higher
--      13 event                 digest of the event, '' for none
--      14 event_limit           maximum number of remembered events
--      15 event_ttl_ms          ms for which completed events are remembered
--      16 tombstone_ms          with finish: how long the tombstone stays (see lib/delete_record)
--      17 channel               channel of the notification that the claim has ended
--      18 held_ms               see lib/check_entries
--      19 new_labels            see lib/check_entries
--      20 new_schema_version    as in sessions/put
-- Returns {1, version, incarnation, at, since}, {-2, version, incarnation} with the stored token, or {verdict}. since
-- belongs to the wait that ended or that starts. With save, returns {1, version, incarnation, at, since, scope or '',
-- expiry}. With finish, the version is '0' and the incarnation '', and owner newline labels follow since if there are index
-- entries.
-- Verdicts: 1 done   -2 conflict   -3 mismatch   -5 unknown   -8 claim lost   -10 newer schema version
--           -11 not indexed
-- A repeated call returns the version and time of its earlier attempt, and the expected incarnation, even with finish.
-- It returns the stored since, '0' if the wait or the record is gone.
-- Why atomic: a script runs alone. It decides first and writes last, because nothing rolls back.

local new_owner, new_ttl_ms, new_body = ARGV[4], ARGV[5], ARGV[6]
local expected_incarnation, expected_version = ARGV[7], ARGV[8]
local fencing_token, mode, scope_hash, since_floor = ARGV[9], ARGV[10], ARGV[11], ARGV[12]
local event, event_limit, event_ttl_ms = ARGV[13], ARGV[14], ARGV[15]
local tombstone_ms, channel = ARGV[16], ARGV[17]
local held_ms, new_labels, new_schema_version = ARGV[18], ARGV[19], ARGV[20]
local LOG_FIELD, FIRST_ENTRY = 'ops', 4

--@include lib/record
--@include lib/operation_log
--@include lib/event_set
--@include lib/wait_state
--@include lib/conflict

local result, done_at = find_earlier_attempt(log)
if result and mode == 'save' then
  return with_index_update({1, result, expected_incarnation, done_at}, live and stored_expires or 0)
end
if result then return {1, result == 'd' and '0' or result, expected_incarnation, done_at, since} end
if not holds_claim(fencing_token) then
  if may_have_expired(new_ttl_ms) then return {-5} end
  return claim_lost_reply()
end
if version ~= expected_version or incarnation ~= expected_incarnation then return conflict_reply(log) end
--@include lib/check_schema_version

-- These reads fail before the first write if a key holds another type of value. With save, the first write is to the
-- lookup in lib/write_record, and it fails in that case.
local stored_labels = mode == 'finish' and call('HGET', KEYS[1], 'labels') or ''
if event ~= '' then call('ZCARD', KEYS[3]) end
if mode ~= 'save' then call('HLEN', KEYS[2]) end
local is_writing, found_wait = mode ~= 'finish', waits_on

--@include lib/check_entries

if mode == 'finish' then
  deletes = true
else
  waits_on = nil  -- the caller updates the index
  if mode ~= 'save' then
    -- HDEL is allowed at maxmemory, and after a script's first write the server no longer rejects OOM commands. So
    -- this also works when memory is full.
    remove_claim()
  end
  if mode == 'complete' then call('HDEL', KEYS[1], 'wait', 'since') end
  next_version, next_incarnation = text(version + 1), incarnation
end

--@include lib/write_entries
--@include lib/merge_operation_log
--@include lib/delete_record
--@include lib/write_record
--@include lib/update_lookup_ttl

if mode == 'wait' then
  since = later_than(since, since_floor)
  call('HSET', KEYS[1], 'wait', scope_hash, 'since', since)
  expire_record(last_ms)  -- if the new expiry had passed, HSET created a hash without an expiry
end
if mode == 'save' then
  waits_on = found_wait
  return with_index_update({1, next_version, next_incarnation, text(now)}, expires)
end
remember_event(event, event_limit, event_ttl_ms)
redis.pcall('PUBLISH', channel, '1')
if deletes then
  reply = {1, '0', '', text(now), since}
  if entries_end then reply[6] = owner .. '\n' .. stored_labels end
  return reply
end
return {1, next_version, next_incarnation, text(now), since}
