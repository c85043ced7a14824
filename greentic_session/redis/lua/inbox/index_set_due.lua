-- Set when a session is due, or remove its index entry, and notify the waiters.
--
-- KEYS  1 index    ZSET  see lib/inbox_index
--       2 tenant   ZSET  see lib/inbox_index
-- ARGV 1-2: see lib/inbox_index.
-- ARGV  3 member         the session, env/tenant/key
--       4 known_score    the score that the caller set last, '' for none
--       5 delay_ms       ms until the session is due, '' to remove its entry
--       6 channel        channel of the notification, '' for none
--       7 pending_token  token of the caller's pending entry, which is removed, '' for none
--       8 tenant_channel  channel of the tenant's notification
-- Returns {1}.
-- Verdicts: 1 done
-- If the stored score is not the known one, another caller has changed the entry. Then this script does not remove
-- the entry, and does not make it due later than before.
-- A repeated call is idempotent, or makes the session due once more.
-- Why atomic: a script runs alone.

local member, known_score, delay_ms, channel = ARGV[3], ARGV[4], ARGV[5], ARGV[6]
local pending_token, tenant_channel = ARGV[7], ARGV[8]

--@include lib/inbox_index

if pending_token ~= '' then remove_entry(pending_token .. '!' .. member) end
local stored_score = redis.call('ZSCORE', KEYS[1], member)
local is_unchanged = stored_score and known_score ~= '' and tonumber(stored_score) == tonumber(known_score)
if delay_ms == '' then
  if is_unchanged then remove_entry(member) end
  return {1}
end
local due_at = now + delay_ms
-- The new score is below the stored one, because another worker that looks at the session must see a change.
if stored_score and not is_unchanged then due_at = math.min(due_at, stored_score - 0.001) end
-- ZREM is allowed at maxmemory, and after a script's first write the server no longer rejects OOM commands.
-- So this also works when memory is full.
remove_entry(member)
put_entry(member, score(due_at))
if channel ~= '' then
  redis.pcall('PUBLISH', channel, '1')
  redis.pcall('PUBLISH', tenant_channel, '1')
end
return {1}
