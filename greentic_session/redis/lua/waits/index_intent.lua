-- Write an index intent, before the record is written.
--
-- KEYS  1 index    HASH  see lib/wait_index
--       2 events   ZSET  see lib/wait_index
-- ARGV 1-3: see lib/wait_index.
-- ARGV  4 scope_hash  reply scope, as a hash
--       5 key         the session key
--       6 ttl_ms      lifetime of the future record in ms, 0 never expires
-- Returns {intent, 1 if the index entry is new, otherwise 0, since, key, since, key, ...}. intent is the number of this
-- intent. Pairs of since and key follow for the other index entries of the reply scope.
-- A repeated call has the same effect.
-- Why atomic: a script runs alone.

local scope_hash, key, ttl_ms = ARGV[4], ARGV[5], ARGV[6]

--@include lib/wait_index

local entries = read_entries(scope_hash)
local own_entry = find_entry(entries, key)
local answer = {now_us, own_entry and 0 or 1}
for _, entry in ipairs(entries) do
  if entry.key ~= key then
    answer[#answer + 1] = entry.since
    answer[#answer + 1] = entry.key
  end
end
local expires = ttl_ms == '0' and 0 or now + ttl_ms
if own_entry then
  local intents = other_intents(own_entry, '')
  intents[#intents + 1] = now_us
  own_entry.intents = table.concat(intents, ',')
else
  entries[#entries + 1] = {since = '0', intents = now_us, expires = whole(expires), key = key}
end
write_entries(scope_hash, entries)
prolong_index(expires)
return answer
