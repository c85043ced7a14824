-- Add a message at the end of a session's mailbox, unless its event is known.
--
-- KEYS  1 record    HASH  see lib/record
--       2 lookup    HASH  see lib/record
--       3 mailbox   HASH  see lib/mailbox
--       4 messages  LIST  see lib/mailbox
--       5 seen      ZSET  id of an event -> when it was admitted (ms since the epoch)
--       6 headers   HASH  see lib/mailbox
-- ARGV 1-3: see lib/record.
-- ARGV  4 exact_owner      owner whose live session may get the message: the caller's own
--       5 shared_owner     another owner whose session may get it: the caller's team without a user
--       6 event_id         id of the event
--       7 message          the message without its time, with the owner in ARGV 4: see lib/mailbox
--       8 message_limit    how many messages the mailbox may hold
--       9 event_limit      how many event ids to remember
--      10 event_memory_ms  ms for which event ids are remembered
--      11 keep_ms          ms to keep the operation logs of an empty mailbox
--      12 headers          headers of the message, '' for none
--      13 header_limit     maximum number of stored headers
--      14 header_ms        ms for which headers are kept after the newest
-- Returns {verdict, message count, ms until a turn may be taken, worker or ''}, or {-3}, or {-5}.
-- Verdicts: 1 done   -3 mismatch   -5 unknown   -7 event seen   -9 full
-- A repeated call finds its operation id in the log posts.
-- Why atomic: a script runs alone. It decides first and writes last, because nothing rolls back.

local exact_owner, shared_owner, event_id, message = ARGV[4], ARGV[5], ARGV[6], ARGV[7]
local message_limit, event_limit, event_memory_ms, keep_ms = ARGV[8], ARGV[9], ARGV[10], ARGV[11]
local headers, header_limit, header_ms = ARGV[12], ARGV[13], ARGV[14]
local LOG_FIELD = 'ops'

--@include lib/record
--@include lib/operation_log
--@include lib/mailbox
--@include lib/event_set

if find_earlier_attempt(message_log) then return mailbox_reply(1) end
if live and owner ~= exact_owner and owner ~= shared_owner then return {-3} end
local seen_at = call('ZSCORE', KEYS[5], event_id)
if seen_at and now < seen_at + event_memory_ms then
  -- An earlier attempt of this call may have recorded the event, and its log entry may be gone.
  if log_overrun(message_log) then return {-5} end
  return mailbox_reply(-7)
end
-- An earlier attempt may have been executed, and its event id may have expired since.
if may_have_expired(event_memory_ms) then return {-5} end
if message_count >= tonumber(message_limit) then return mailbox_reply(-9) end
local header_count = headers ~= '' and call('HLEN', KEYS[6]) or 0  -- fails before the first write as well
-- RPUSH is the first write, because the server rejects it when memory is full.
call('RPUSH', KEYS[4], text(now) .. ':' .. message)
if headers ~= '' then
  -- Only workers of an earlier release leave so many behind.
  if header_count >= tonumber(header_limit) then call('DEL', KEYS[6]) end
  call('HSET', KEYS[6], event_id, headers)
  call('PEXPIRE', KEYS[6], header_ms)
end
message_count = message_count + 1
call('HSET', KEYS[3], 'posts', append_to_log(message_log, '0'))
set_mailbox_expiry(keep_ms)
call('ZADD', KEYS[5], text(now), event_id)
trim_events(KEYS[5], event_id, event_limit, event_memory_ms)
call('PEXPIREAT', KEYS[5], text(now + event_memory_ms - 1))
return mailbox_reply(1)
