-- Write or remove the session, remove the handled messages, and end or continue the turn.
--
-- KEYS  1 record    HASH  see lib/record
--       2 lookup    HASH  see lib/record
--       3 mailbox   HASH  see lib/mailbox
--       4 messages  LIST  see lib/mailbox
--       5 events    ZSET  the completed events of the session, which are removed with it
--       6 headers   HASH  see lib/mailbox
--       7 and more  ZSET  the indexes, see lib/write_entries
-- ARGV 1-3: see lib/record.
-- ARGV  4 new_owner             team/user, '' unless it writes
--       5 new_ttl_ms            lifetime in ms, 0 never expires, '' unless it writes
--       6 new_body              opaque bytes, '' unless it writes
--       7 expected_incarnation  incarnation expected, '' for an absent record
--       8 expected_version      version expected, '0' for an absent record
--       9 turn_fence            fencing token of the caller's turn
--      10 action                write, remove or leave
--      11 handled_count         number of the turn's messages that are handled, counted from the start of the
--                               turn. An earlier call with an unknown outcome may have removed some of them
--      12 remaining_count       number of the turn's messages that are left
--      13 ends_turn             1 if the turn ends, otherwise ''
--      14 new_incarnation       incarnation of a new record
--      15 keep_ms               ms to keep the operation logs of a removed record and of an empty mailbox
--      16 held_ms               see lib/check_entries
--      17 new_labels            see lib/check_entries
--      18 new_schema_version    as in sessions/put
-- Returns {1, version, incarnation, at, message count}, {-2, version, incarnation}, or {verdict}. If the session waits,
-- its reply scope, its owner and its expiry follow the message count. If it was removed, the start of the wait follows
-- in place of the expiry, and owner newline labels are last if it has index entries.
-- Verdicts: 1 done   -2 conflict (with the stored token)   -3 mismatch   -5 unknown   -8 turn lost
--           -10 newer schema version   -11 not indexed
-- A repeated call finds its operation id in the log ops of the mailbox.
-- Why atomic: a script runs alone. It decides first and writes last, because nothing rolls back.

local new_owner, new_ttl_ms, new_body = ARGV[4], ARGV[5], ARGV[6]
local expected_incarnation, expected_version, turn_fence = ARGV[7], ARGV[8], ARGV[9]
local action, handled_count, remaining_count = ARGV[10], ARGV[11], ARGV[12]
local ends_turn, new_incarnation = ARGV[13], ARGV[14]
local keep_ms, held_ms, new_labels, new_schema_version = ARGV[15], ARGV[16], ARGV[17], ARGV[18]
local tombstone_ms = keep_ms
local LOG_FIELD, FIRST_ENTRY = 'ops', 7

--@include lib/record
--@include lib/operation_log
--@include lib/mailbox

-- A result in an operation log is the version that the call wrote, d for a delete, or 0 for neither.
local earlier_result, earlier_at = find_earlier_attempt(turn_log)
if earlier_result then
  local reply_version, reply_inc = earlier_result, earlier_result == '1' and new_incarnation or expected_incarnation
  if earlier_result == 'd' then reply_version, reply_inc = '0', '' end
  if action == 'leave' then reply_version = expected_version end
  reply = {1, reply_version, reply_inc, earlier_at, text(message_count)}
  if live and waits_on and earlier_result ~= 'd' then
    reply[6], reply[7], reply[8] = waits_on, owner, text(stored_expires)
  end
  return reply
end
if not holds_turn(turn_fence) then return lost_reply() end
local log_result = '0'
if action ~= 'leave' then
  if live and action == 'write' and owner ~= new_owner then return {-3} end
  local stored_version, stored_inc = live and version or '0', live and incarnation or ''
  if stored_version ~= expected_version or stored_inc ~= expected_incarnation then
    return {-2, stored_version, stored_inc}
  end
--@include lib/check_schema_version
  -- These reads fail before the first write if a key holds another type of value.
  call('HLEN', KEYS[2])
  if action == 'remove' then call('ZCARD', KEYS[5]) end
end
local header_count = call('HLEN', KEYS[6])  -- fails before the first write as well
local is_writing = action == 'write'

--@include lib/check_entries

-- HDEL is allowed at maxmemory, and after a script's first write the server no longer rejects OOM commands.
-- So this also works when memory is full.
call('HDEL', KEYS[3], 'rest')
local removals = handled_count - removed_count
if removals > 0 then
  for _, message in ipairs(header_count > 0 and call('LRANGE', KEYS[4], '0', text(removals - 1)) or {}) do
    call('HDEL', KEYS[6], id_of(message) or '')
  end
  call('LTRIM', KEYS[4], text(removals), '-1')
  message_count = math.max(0, message_count - removals)
  attempts = ends_turn == '' and remaining_count ~= '0' and 1 or 0
  call('HSET', KEYS[3], 'done', handled_count)
elseif ends_turn ~= '' then
  attempts = math.max(0, attempts - 1)  -- the head was not handled, so this was not an attempt at it
end
if action == 'write' then
  next_version, next_incarnation = text(expected_version + 1), live and incarnation or new_incarnation
  log_result = next_version
elseif action == 'remove' and live then
  deletes, log_result = true, 'd'
  reply = {1, '0', '', text(now), text(message_count)}
  if waits_on then
    reply[6], reply[7], reply[8] = waits_on, owner, call('HGET', KEYS[1], 'since')
  end
  if entries_end then reply[#reply + 1] = owner .. '\n' .. (call('HGET', KEYS[1], 'labels') or '') end
  call('DEL', KEYS[5])
end
if ends_turn ~= '' then
  is_held = false
  call('HDEL', KEYS[3], 'lease', 'start', 'by', 'worker', 'done')
end
call('HSET', KEYS[3], 'ops', append_to_log(turn_log, log_result), 'tries', text(attempts))
set_mailbox_expiry(keep_ms)

--@include lib/write_entries
--@include lib/merge_operation_log
--@include lib/delete_record
--@include lib/write_record
--@include lib/update_lookup_ttl

if reply then return reply end  -- removed
if not next_version then return {1, expected_version, expected_incarnation, text(now), text(message_count)} end
reply = {1, next_version, next_incarnation, text(now), text(message_count)}
if live and waits_on then
  reply[6], reply[7], reply[8] = waits_on, owner, text(expires)
end
return reply
