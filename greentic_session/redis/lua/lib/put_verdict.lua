-- Write a record: over a live one of the same owner as its next version, else as a new one.
--
-- KEYS, ARGV 1-3, returns, why atomic: see lib/record.
-- ARGV  4 owner   team/user
--       5 ttl     life in ms, 0 never expires
--       6 body    opaque bytes
--       7 inc     incarnation to give a new record
-- Verdicts: 1 done   -3 mismatch   -5 unknown

local mark, done_at, done_inc = recall(ops, live and incarnation)
if mark then
  -- Version 1 is a record that this call created. Another version's incarnation is known only
  -- while the record lives.
  if mark == '1' then done_inc = ARGV[7] end
  if not done_inc then return {-5} end
  if live and waits_on then return {1, mark, done_inc, done_at, waits_on, owner, text(was)} end
  return {1, mark, done_inc, done_at}
end
if overrun(ops, time) then return {-5} end
if live and owner ~= ARGV[4] then return {-3} end
if outlived(ARGV[5]) then return {-5} end
if live then
  next_version, inc = text(version + 1), incarnation
else
  next_version, inc = '1', ARGV[7]
end
