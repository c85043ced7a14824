-- Return the session that has been due for longest, and defer it while a worker takes its turn.
--
-- KEYS  1 index    ZSET    see lib/inbox_index
--       2 tenant   ZSET    see lib/inbox_index. Absent in a call for all tenants
-- ARGV 1-2: see lib/inbox_index.
-- ARGV  3 defer_ms  ms after which the session is due again if the worker dies
--       4 longest_ms  longest time in ms for which this caller defers a session
--       5 prefix      env/tenant/ of the tenant, '' for all tenants
--       6 position    position in the index, from 0. The tenant's entries of the page there are copied to the tenant's
--                     index, if it lacks them or has them due later. '' copies none
-- Returns {1, session, its new score, position of the next page or '', copied entries}, or {0, ms until the next session
-- is due or '', position of the next page or '', copied entries}. With 0 ms, the caller calls again.
-- Verdicts: 1 done   0 no session is due
-- A repeated call does not know which session its earlier attempt returned. So all sessions that were deferred since
-- then become due immediately.
-- If an entry is due later than any worker sets one, the clock was set back. If nothing else is due, the first 10,000
-- such entries become due: a session immediately, a pending entry after longest_ms, because its caller may still run.
-- The mailbox decides when a turn may be taken, and a dead worker's lease then ends earlier: see lib/mailbox.
-- Another worker may have a longer lease. Then its session is looked at once, and becomes due at most longest_ms later.
-- Why atomic: a script runs alone.

local ambiguous_since, defer_ms, longest_ms, prefix, position = ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6]

--@include lib/inbox_index

local PAGE = 128
local CORRECTED = 64  -- limit on the entries of the tenant's index that a call corrects
local index = KEYS[2] or KEYS[1]
local following, copied = '', 0

local function copy_page()
  local page = redis.call('ZRANGE', KEYS[1], position, (position + PAGE - 1) .. '', 'WITHSCORES')
  local members, due_scores = {}, {}
  for i = 1, #page, 2 do
    local member = page[i]
    if string.sub(session_of_pending(member) or member, 1, #prefix) == prefix then
      members[#members + 1], due_scores[#due_scores + 1] = member, page[i + 1]
    end
  end
  local known_scores = members[1] and redis.call('ZMSCORE', KEYS[2], unpack(members)) or {}
  for i, member in ipairs(members) do
    if not known_scores[i] or tonumber(known_scores[i]) > tonumber(due_scores[i]) then
      -- ZREM is allowed at maxmemory, and after a script's first write the server no longer rejects OOM commands.
      redis.call('ZREM', KEYS[2], member)
      redis.call('ZADD', KEYS[2], due_scores[i], member)
      copied = copied + 1
    end
  end
  if #page == 2 * PAGE then following = (position + PAGE) .. '' end
end

-- Returns the first entry and its score, empty for none. Returns nil if more entries than the limit are wrong.
local function first_entry()
  for _ = 1, CORRECTED do
    local found = redis.call('ZRANGE', index, '0', '0', 'WITHSCORES')
    if not found[1] or not KEYS[2] then return found end
    local right_score = redis.call('ZSCORE', KEYS[1], found[1])
    if right_score and tonumber(right_score) == tonumber(found[2]) then return found end
    redis.call('ZREM', KEYS[2], found[1])
    if right_score then redis.call('ZADD', KEYS[2], right_score, found[1]) end
  end
end

if ambiguous_since ~= '' then requeue_deferred_since(math.min(ambiguous_since + 0, now), defer_ms, '256') end
if position ~= '' then copy_page() end
local first = first_entry()
if not first then return {0, '0', following, copied .. ''} end
if not first[1] then return {0, '', following, copied .. ''} end
if tonumber(first[2]) > now then
  local too_late = redis.call('ZRANGEBYSCORE', index, '(' .. score(now + longest_ms), '+inf', 'LIMIT', '0', '10000')
  if too_late[1] then
    redis.call('ZREM', KEYS[1], '')  -- as the first write, because it is allowed at maxmemory: see below
    for i, member in ipairs(too_late) do
      local due_at = session_of_pending(member) and now + longest_ms or now
      put_entry(member, score(due_at + (i - #too_late) / 1000))  -- the order stays
    end
    first = redis.call('ZRANGE', index, '0', '0', 'WITHSCORES')
  end
end
if tonumber(first[2]) > now then
  return {0, string.format('%.0f', math.ceil(first[2] - now)), following, copied .. ''}
end
-- ZREM is allowed at maxmemory, and after a script's first write the server no longer rejects OOM commands.
-- So this also works when memory is full.
remove_entry(first[1])
local session = session_of_pending(first[1]) or first[1]
local deferred_score = score(now + defer_ms)
put_entry(session, deferred_score)
return {1, session, deferred_score, following, copied .. ''}
