-- Start of the scripts on early events.
--
-- KEYS  1 early    LIST  events in the form of the messages in lib/mailbox, the oldest first. An event that is assigned
--                        to a session has `!length:key` after the time. Its session does not change later,
--                        unless that session is gone
--       2 heads    ZSET  event head, `length:owner length:id` without the blank -> time of the event. A worker of an
--                        earlier release does not write it: see inbox/store_early
--       3 headers  HASH  event head -> headers of the event. A worker of an earlier release does not write or read it
-- ARGV  1 operation_id     as for other scripts. Not used here, because a repeated call is idempotent
--       2 ambiguous_since  as for other scripts. Not used here
--
-- Reads: nothing. Sets: nothing.
-- Functions: parse_event, assigned_event, head_of.
--
-- Why atomic: a script runs alone.

-- Returns the time of an event, the key of its session if it is assigned, and the rest.
local function parse_event(event)
  local at, after = string.match(event, '^(%d+)()')
  local length, start = string.match(event, '^!(%d+):()', after)
  if not length then return at, nil, string.sub(event, after) end
  return at, string.sub(event, start, start + length - 1), string.sub(event, start + length)
end

-- Returns an event with its session, as stored.
local function assigned_event(at, key, rest)
  return at .. '!' .. #key .. ':' .. key .. rest
end

-- Returns the head of an event, from the rest that parse_event returns.
local function head_of(rest)
  local length, owner = string.match(rest, '^:(%d+):()')
  local id_length, id = string.match(rest, '^(%d+):()', owner + length)
  return string.sub(rest, 2, id + id_length - 1)
end
