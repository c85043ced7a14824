-- Write one index entry, remove others, and remember events.
--
-- KEYS  1 index    HASH  see lib/wait_index
--       2 events   ZSET  see lib/wait_index
-- ARGV 1-3: see lib/wait_index.
-- ARGV  4 event_limit   maximum number of remembered events
--       5 event_ttl_ms  ms for which completed events are remembered
--       6 scope_hash    reply scope of the entry to write, '' for none
--       7 key           session key of that entry
--       8 since_us      since of that entry in us, as in the record. 0 creates no entry, but prolongs an existing one
--       9 expires_ms    when the record expires, in ms since the epoch, 0 never
--      10 intent        the caller's own intent for that entry, '' for none
--      11 removals      number of index entries to remove. Four arguments each follow: scope, key, since, own intent or
--                       ''. since is the last registration to remove, in us. -1 removes an entry that has only an
--                       intent. -2 ends the own intent and keeps the entry
--     ... events        pairs of the digest and the ms of an event, the newest last
-- Returns {1}.
-- A repeated call has the same effect.
-- Why atomic: a script runs alone.

local event_limit, event_ttl_ms = ARGV[4], ARGV[5]
local scope_hash, key, since_us, expires_ms, intent = ARGV[6], ARGV[7], ARGV[8], ARGV[9], ARGV[10]
local removals = ARGV[11]

--@include lib/wait_index
--@include lib/event_set

local last_removal = 11 + 4 * removals
if #ARGV > last_removal then redis.call('ZCARD', KEYS[2]) end  -- fails before the first write on another type
-- HDEL is allowed at maxmemory, and after a script's first write the server no longer rejects OOM commands. So this
-- also works when memory is full.
redis.call('HDEL', KEYS[1], '')
local may_end_earlier = false  -- whether the index may have lost an entry that never expired
for i = 12, last_removal, 4 do
  local removed_scope, removed_key, removed_since, own_intent = ARGV[i], ARGV[i + 1], ARGV[i + 2], ARGV[i + 3]
  local entries = read_entries(removed_scope)
  local entry, position = find_entry(entries, removed_key)
  if entry then
    local limit_us = tonumber(removed_since)
    end_intent(entry, own_intent)
    may_end_earlier = may_end_earlier or own_intent ~= ''
    if limit_us ~= -2 and entry.intents == '0' and tonumber(entry.since) <= math.max(limit_us, 0) then
      table.remove(entries, position)
      may_end_earlier = may_end_earlier or entry.expires == '0'
    end
    write_entries(removed_scope, entries)
  end
end
if scope_hash ~= '' then
  local entries = read_entries(scope_hash)
  local entry = find_entry(entries, key)
  if not entry and since_us ~= '0' then
    entry = {since = '0', intents = '0', key = key}
    entries[#entries + 1] = entry
  end
  if entry then
    end_intent(entry, intent)
    if tonumber(entry.since) < tonumber(since_us) then entry.since = since_us end
    may_end_earlier = may_end_earlier or (entry.expires == '0' and expires_ms ~= '0')
    entry.expires = expires_ms
    write_entries(scope_hash, entries)
    prolong_index(tonumber(expires_ms))
  end
end
-- Remove entries of expired sessions, at a cost that does not grow with the index:
--
--    * Up to 64 reply scopes, this reads all of them and sets the exact lifetime of the index. It does so only if the
--      index may live too long, or if it has about 64.
--    * With more, each registration reads 4 random ones. So the index shrinks while it has many expired entries. Its
--      lifetime only grows, because a bounded number of reads cannot find the longest-lived entry.
local MANY, SAMPLE = 64, '4'
local size = redis.call('HLEN', KEYS[1])
local fields = {}
if size > MANY then
  if since_us ~= '0' then fields = redis.call('HRANDFIELD', KEYS[1], SAMPLE, 'WITHVALUES') end
elseif may_end_earlier or size == MANY - 1 or size == MANY and removals ~= '0' then
  fields = redis.call('HGETALL', KEYS[1])
end
local longest
for i = 1, #fields, 2 do
  local entries, live_entries = parse_entries(fields[i + 1]), {}
  for _, entry in ipairs(entries) do
    local ends = tonumber(entry.expires)
    if ends == 0 or ends > now or #other_intents(entry, '') > 0 then
      live_entries[#live_entries + 1] = entry
      if ends == 0 or (longest ~= 0 and (not longest or ends > longest)) then longest = ends end
    end
  end
  if #live_entries < #entries then write_entries(fields[i], live_entries) end
end
if size <= MANY and longest and longest ~= 0 then redis.call('PEXPIREAT', KEYS[1], whole(longest - 1)) end
if #ARGV > last_removal then
  for i = last_removal + 1, #ARGV, 2 do
    redis.call('ZADD', KEYS[2], ARGV[i + 1], ARGV[i])
  end
  trim_events(KEYS[2], ARGV[#ARGV - 1], event_limit, event_ttl_ms)
  redis.call('PEXPIREAT', KEYS[2], whole(now + event_ttl_ms - 1))
end
return {1}
