-- Take back a message that no worker has begun.
--
-- KEYS  1 record    HASH  see lib/record
--       2 lookup    HASH  see lib/record
--       3 mailbox   HASH  see lib/mailbox
--       4 messages  LIST  see lib/mailbox
--       5 seen      ZSET  see inbox/admit
--       6 headers   HASH  see lib/mailbox
-- ARGV 1-3: see lib/record.
-- ARGV  4 event_id         id of the message
--       5 prefix           messages whose ids start so are taken back as well, '' for none
--       6 refuses          1 to remember an event id that is not known, so that inbox/admit refuses it, otherwise ''
--       7 event_limit      how many event ids to remember
--       8 event_memory_ms  ms for which event ids are remembered
--       9 keep_ms          ms to keep the operation logs of an empty mailbox
-- Returns {verdict}.
-- Verdicts: 1 done   0 absent   -5 unknown   -6 a worker has begun it
-- A repeated call finds its operation id in the log posts.
-- Why atomic: a script runs alone. It decides first and writes last, because nothing rolls back.

local event_id, prefix, refuses = ARGV[4], ARGV[5], ARGV[6]
local event_limit, event_memory_ms, keep_ms = ARGV[7], ARGV[8], ARGV[9]
local LOG_FIELD = 'ops'

--@include lib/record
--@include lib/operation_log
--@include lib/mailbox
--@include lib/event_set

if find_earlier_attempt(message_log) then return {1} end
local begun = 0
if is_held or attempts > 0 then
  -- A worker of an earlier release does not tell how many messages it has.
  local in_hand = call('HGET', KEYS[3], 'hand')
  begun = in_hand and math.max(1, in_hand - removed_count) or message_count
end
call('HLEN', KEYS[6])  -- fails before the first write if the key holds another type of value
local found = {}
for position, message in ipairs(message_count > 0 and call('LRANGE', KEYS[4], '0', '-1') or {}) do
  local id = id_of(message)
  if id == event_id or (id and prefix ~= '' and string.sub(id, 1, #prefix) == prefix) then
    if position <= begun then return {-6} end
    found[#found + 1] = message
  end
end
if #found == 0 then
  local is_known = call('ZSCORE', KEYS[5], event_id)
  if log_overrun(message_log) then return {-5} end
  if is_known or refuses == '' then return {0} end
end
-- HDEL is allowed at maxmemory, and after a script's first write the server no longer rejects OOM commands.
-- So this also works when memory is full.
call('HDEL', KEYS[6], event_id)
for _, message in ipairs(found) do
  call('LREM', KEYS[4], '-1', message)
  call('HDEL', KEYS[6], id_of(message))
end
message_count = message_count - #found
call('HSET', KEYS[3], 'posts', append_to_log(message_log, '0'))
set_mailbox_expiry(keep_ms)
if #found == 0 then
  call('ZADD', KEYS[5], text(now), event_id)
  trim_events(KEYS[5], event_id, event_limit, event_memory_ms)
  call('PEXPIREAT', KEYS[5], text(now + event_memory_ms - 1))
end
return {1}
