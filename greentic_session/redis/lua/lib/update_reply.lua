-- Return the new token of a session that waits, the result of an earlier attempt, or the conflict. update_cas ends with
-- this text. A write to a session that does not wait has returned before.
--
-- Reads: KEYS 1, expected_incarnation (of the script), next_version and next_incarnation of lib/update_cas_verdict,
--    expires of lib/write_record, and the locals of lib/record, lib/operation_log and lib/conflict. Here `log` is the
--    entry in the field of the following version. That field holds one entry, perhaps of a version that is 8 lower or
--    higher. The entries of other scripts are in ops.

if next_version then return {1, next_version, next_incarnation, text(now), waits_on, owner, text(expires)} end
local shared_log = call('HGET', KEYS[1], 'ops') or ''
local result, done_at = find_earlier_attempt(log)
if not result then result, done_at = find_earlier_attempt(shared_log) end
if not result then return conflict_reply(shared_log) end
if live and waits_on then
  return {1, result, expected_incarnation, done_at, waits_on, owner, text(stored_expires)}
end
return {1, result, expected_incarnation, done_at}
