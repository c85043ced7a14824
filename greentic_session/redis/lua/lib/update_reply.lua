-- Return the new token, the result of an earlier attempt, or the conflict: the end of update_cas.
--
-- Reads: KEYS 1, next_version, next_incarnation, expires, expected_incarnation (of the script), log (the entry of the
--    expected version's successor alone), and the locals of lib/record, lib/operation_log and lib/conflict.

if next_version then return {1, next_version, next_incarnation, text(now), waits_on, owner, text(expires)} end
local shared_log = call('HGET', KEYS[1], 'ops') or ''
local result, done_at = find_earlier_attempt(log)
if not result then result, done_at = find_earlier_attempt(shared_log) end
if not result then return conflict_reply(shared_log) end
if live and waits_on then
  return {1, result, expected_incarnation, done_at, waits_on, owner, text(stored_expires)}
end
return {1, result, expected_incarnation, done_at}
