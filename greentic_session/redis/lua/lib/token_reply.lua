-- Return the new token. create and put end with this text.
--
-- Reads: next_version, next_incarnation, expires, text, and the locals of lib/record.

if live and waits_on then
  return {1, next_version, next_incarnation, text(now), waits_on, owner, text(expires)}
end
return {1, next_version, next_incarnation, text(now)}
