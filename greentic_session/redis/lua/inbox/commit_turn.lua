-- Write or remove the session, and drop the mail that was handled; end the turn, or go on.
--
-- KEYS, ARGV 1-3, why atomic: see lib/mailbox and lib/record.
-- KEYS  5 events   ZSET  the completed events that the session remembers; removed with it
-- ARGV  4 owner    team/user ('' unless it writes)
--       5 ttl      life in ms, 0 never expires ('' unless it writes)
--       6 body     opaque bytes ('' unless it writes)
--       7 inc      incarnation expected, '' for an absent record
--       8 cas      version expected, '0' for an absent record
--       9 fence    number of the turn
--      10 how      write, remove or leave
--      11 handled  how many of the turn's letters are done with by now, counted from the start of the turn: an
--                  earlier call, of whose end the caller did not hear, may have dropped some of them
--      12 in hand  how many of the turn's letters are left
--      13 ends     1 if the turn ends, else ''
--      14 new      incarnation to give a new record
--      15 keep     ms to keep the ring of a record after its end, and the rings of an empty box
-- Returns {1, version, incarnation, at, letters waiting}, of a session that waits also its reply scope, its
-- owner, and its expiry, or since when it waited if it was removed.
-- Verdicts: 1 done   -2 conflict (with the stored token)   -3 mismatch   -5 unknown   -8 turn lost
-- A repeated call finds itself in the box's ring.

local new_owner, new_ttl_ms, new_body, tombstone_ms = ARGV[4], ARGV[5], ARGV[6], ARGV[15]
local LOG_FIELD = 'ops'

--@include lib/record
--@include lib/operation_log
--@include lib/mailbox

local how = ARGV[10]
local mark, done_at = find_earlier_attempt(own)
if mark then
  local at_version, at_inc = mark, mark == '1' and ARGV[14] or ARGV[7]
  if mark == 'd' then at_version, at_inc = '0', '' end
  if how == 'leave' then at_version = ARGV[8] end
  reply = {1, at_version, at_inc, done_at, text(waiting)}
  if live and waits_on and mark ~= 'd' then
    reply[6], reply[7], reply[8] = waits_on, owner, text(stored_expires)
  end
  return reply
end
if not holds(ARGV[9]) then return lost() end
local made = '0'
if how ~= 'leave' then
  if live and how == 'write' and owner ~= ARGV[4] then return {-3} end
  local at_version, at_inc = live and version or '0', live and incarnation or ''
  if at_version ~= ARGV[8] or at_inc ~= ARGV[7] then return {-2, at_version, at_inc} end
  call('HLEN', KEYS[2])  -- should another type stand there, or under the next name, fail here
  if how == 'remove' then call('ZCARD', KEYS[5]) end
end
-- Nothing refuses HDEL, and once a script has written, the server lets it finish. So a turn can be ended
-- when memory is full.
call('HDEL', KEYS[3], 'rest')
local drops = ARGV[11] - done
if drops > 0 then
  call('LTRIM', KEYS[4], text(drops), '-1')
  waiting = math.max(0, waiting - drops)
  tries = ARGV[13] == '' and ARGV[12] ~= '0' and 1 or 0
  call('HSET', KEYS[3], 'done', ARGV[11])
elseif ARGV[13] ~= '' then
  tries = math.max(0, tries - 1)  -- the head is left: this was no attempt at it
end
if how == 'write' then
  next_version, next_incarnation = text(ARGV[8] + 1), live and incarnation or ARGV[14]
  made = next_version
elseif how == 'remove' and live then
  deletes, made = true, 'd'
  reply = {1, '0', '', text(now), text(waiting)}
  if waits_on then
    reply[6], reply[7], reply[8] = waits_on, owner, call('HGET', KEYS[1], 'since')
  end
  call('DEL', KEYS[5])
end
if ARGV[13] ~= '' then
  held = false
  call('HDEL', KEYS[3], 'lease', 'by', 'worker', 'done')
end
call('HSET', KEYS[3], 'ops', append_to_log(own, made), 'tries', text(tries))
tidy(ARGV[15])

--@include lib/merge_operation_log
--@include lib/delete_record
--@include lib/write_record
--@include lib/update_lookup_ttl

-- The end of inbox/commit_turn; put after lib/update_lookup_ttl.

if reply then return reply end  -- removed
if not next_version then return {1, ARGV[8], ARGV[7], text(now), text(waiting)} end
reply = {1, next_version, next_incarnation, text(now), text(waiting)}
if live and waits_on then
  reply[6], reply[7], reply[8] = waits_on, owner, text(expires)
end
return reply
