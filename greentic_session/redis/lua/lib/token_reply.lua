-- Return the new token. create and put end with this text. If the session had other labels, owner newline labels are
-- last.
--
-- Reads: next_version, next_incarnation, expires, replaced_labels, text, and the locals of lib/record.

reply = {1, next_version, next_incarnation, text(now)}
if live and waits_on then reply[5], reply[6], reply[7] = waits_on, owner, text(expires) end
if replaced_labels then reply[#reply + 1] = owner .. '\n' .. replaced_labels end
return reply
