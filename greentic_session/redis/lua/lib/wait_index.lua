-- Read and write a user's index of waits. Every script on such an index starts with this text.
--
-- KEYS  1 index    HASH  reply scope (a hash) -> index entries: lines of `since:intents:expires:key`
--       2 events   ZSET  digest -> when the event was completed (ms since the epoch)
-- ARGV  1, 2       operation_id, ambiguous_since: not used here, because a repeat has the same effect
--       3 grace_ms   ms for which an index intent protects its entry from removal
--
--    since    us since the epoch, as in the record, 0 while there is only an intent
--    intents  us since the epoch of each open index intent, with commas, 0 if there is none
--    expires  ms since the epoch: when the record expires, 0 never
--    key      the session key, which has no newline
--
-- Why atomic: a script runs alone. An index entry may be stale, because the record decides. The index lives at least as
-- long as its longest-lived entry: see waits/update_index.
--
-- Reads: KEYS 1, ARGV 3.
-- Sets: time now_us now existed.
-- Functions: whole, parse_entries, read_entries, write_entries, find_entry, prolong_index, other_intents, end_intent.

local time = redis.call('TIME')
local now_us = time[1] .. string.sub('00000' .. time[2], -6)
local now = math.floor(now_us / 1000)
local existed = redis.call('EXISTS', KEYS[1]) == 1

local function whole(number)
  return string.format('%.0f', number)
end

local function parse_entries(lines)
  local entries = {}
  for since, intents, expires, session in string.gmatch(lines, '(%d+):([%d,]+):(%d+):([^\n]*)\n') do
    entries[#entries + 1] = {since = since, intents = intents, expires = expires, key = session}
  end
  return entries
end

local function read_entries(scope)
  return parse_entries(redis.call('HGET', KEYS[1], scope) or '')
end

local function write_entries(scope, entries)
  if #entries == 0 then
    redis.call('HDEL', KEYS[1], scope)
    return
  end
  local lines = {}
  for i, entry in ipairs(entries) do
    lines[i] = entry.since .. ':' .. entry.intents .. ':' .. entry.expires .. ':' .. entry.key .. '\n'
  end
  redis.call('HSET', KEYS[1], scope, table.concat(lines))
end

local function find_entry(entries, session)
  for i, entry in ipairs(entries) do
    if entry.key == session then return entry, i end
  end
end

-- Lets the index live at least until `end_ms` (ms since the epoch, 0 never expires).
local function prolong_index(end_ms)
  local left = redis.call('PTTL', KEYS[1])
  if existed and left == -1 then return end
  if end_ms == 0 then
    redis.call('PERSIST', KEYS[1])
  elseif not existed or now + left < end_ms - 1 then
    redis.call('PEXPIREAT', KEYS[1], whole(end_ms - 1))
  end
  existed = true
end

-- Returns the open intents that still protect the entry, except the caller's own.
local function other_intents(entry, own)
  local intents = {}
  for intent in string.gmatch(entry.intents, '%d+') do
    if intent ~= '0' and intent ~= own and now_us - intent < ARGV[3] * 1000 then
      intents[#intents + 1] = intent
    end
  end
  return intents
end

local function end_intent(entry, own)
  local intents = other_intents(entry, own)
  entry.intents = #intents > 0 and table.concat(intents, ',') or '0'
end
