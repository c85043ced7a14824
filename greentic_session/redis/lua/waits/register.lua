-- Write a record and register its session as waiting. This supersedes a claim on the record.
--
-- KEYS  1 record   HASH  see lib/record
--       2 lookup   HASH  see lib/record
--       3 events   ZSET  see lib/wait_state
--       4 and more  ZSET  the indexes, see lib/write_entries
-- ARGV 1-3: see lib/record.
-- ARGV  4 new_owner             team/user
--       5 new_ttl_ms            lifetime in ms, 0 never expires
--       6 new_body              opaque bytes
--       7 expected_incarnation  incarnation of the expected token
--       8 expected_version      version of the expected token, '0' for an absent record, '' for any token
--       9 new_incarnation       incarnation of a new record
--      10 scope_hash            reply scope, as a hash
--      11 since_floor           in us. The new since is higher
--      12 event                 digest of the event that the registration completes, '' for none
--      13 event_limit           maximum number of remembered events
--      14 event_ttl_ms          ms for which completed events are remembered
--      15 held_ms               see lib/check_entries
--      16 new_labels            see lib/check_entries
--      17 new_schema_version    as in sessions/put
-- Returns {1, version, incarnation, at, since, scope that the session left or ''}, {-2, version, incarnation} with the
-- stored token, or {verdict}.
-- Verdicts: 1 done   -2 conflict   -3 mismatch   -5 unknown   -7 event seen   -10 newer schema version
--           -11 not indexed
-- Why atomic: a script runs alone. It decides first and writes last, because nothing rolls back.

local new_owner, new_ttl_ms, new_body = ARGV[4], ARGV[5], ARGV[6]
local expected_incarnation, expected_version, new_incarnation = ARGV[7], ARGV[8], ARGV[9]
local scope_hash, since_floor, event, event_limit, event_ttl_ms = ARGV[10], ARGV[11], ARGV[12], ARGV[13], ARGV[14]
local held_ms, new_labels, new_schema_version = ARGV[15], ARGV[16], ARGV[17]
local LOG_FIELD, FIRST_ENTRY = 'ops', 4

--@include lib/record
--@include lib/operation_log
--@include lib/event_set
--@include lib/wait_state
--@include lib/conflict

local result, done_at, done_incarnation = find_earlier_attempt(log, live and incarnation)
if result then
  if result == '1' then done_incarnation = new_incarnation end
  if not done_incarnation then return {-5} end
  return {1, result, done_incarnation, done_at, since, ''}
end
if is_seen(event, event_ttl_ms) then
  -- An earlier attempt of this call may have completed it, and its entry in the log may be gone.
  return {ambiguous_since ~= '' and (log_overrun(log) or may_have_expired(new_ttl_ms)) and -5 or -7}
end
if expected_version == '' then
  if log_overrun(log) then return {-5} end
  if live and owner ~= new_owner then return {-3} end
  if may_have_expired(new_ttl_ms) then return {-5} end
elseif expected_version == '0' then
  if log_overrun(log) then return {-5} end
  if live then
    if owner ~= new_owner then return {-3} end
    return {may_have_expired(new_ttl_ms) and -5 or -2, version, incarnation}
  end
  if may_have_expired(new_ttl_ms) then return {-5} end
elseif not live or owner ~= new_owner or version ~= expected_version or incarnation ~= expected_incarnation then
  return conflict_reply(log)
end
--@include lib/check_schema_version

local left_scope = live and waits_on and waits_on ~= scope_hash and waits_on or ''
local new_since = later_than(live and since or 0, since_floor)
local had_claim = lease
next_version, next_incarnation = '1', new_incarnation
if live then
  next_version, next_incarnation = text(version + 1), incarnation
  waits_on, lease = nil, nil  -- the lifetime counts from now, and the caller updates the index
end

local is_writing = true

--@include lib/check_entries
--@include lib/write_entries
--@include lib/merge_operation_log
--@include lib/write_record
--@include lib/update_lookup_ttl

if had_claim then remove_claim() end
call('HSET', KEYS[1], 'wait', scope_hash, 'since', new_since)
expire_record(last_ms)  -- if the new expiry had passed, HSET created a hash without an expiry
remember_event(event, event_limit, event_ttl_ms)
return {1, next_version, next_incarnation, text(now), new_since, left_scope}
