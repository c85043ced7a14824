-- Decide a put. Return a reply without a write, or set the token to write. Include it after lib/operation_log.
--
-- Reads: new_owner, new_ttl_ms, new_incarnation (of the script), and the locals of lib/record and lib/operation_log.
-- Sets: next_version, next_incarnation.

local result, done_at, done_incarnation = find_earlier_attempt(log, live and incarnation)
if result then
  -- With version 1, this call created the record. The incarnation of another version is known only while the record
  -- lives.
  if result == '1' then done_incarnation = new_incarnation end
  if not done_incarnation then return {-5} end
  if live and waits_on then
    return {1, result, done_incarnation, done_at, waits_on, owner, text(stored_expires)}
  end
  return {1, result, done_incarnation, done_at}
end
if log_overrun(log) then return {-5} end
if live and owner ~= new_owner then return {-3} end
if may_have_expired(new_ttl_ms) then return {-5} end
if live then
  if not tonumber(version) then return redis.error_reply('WRONGTYPE the version of the record is not a number') end
  next_version, next_incarnation = text(version + 1), incarnation
else
  next_version, next_incarnation = '1', new_incarnation
end
