-- Enter a hint before the record is written.
--
-- KEYS, ARGV 1-3, why atomic: see lib/wait_index.
-- ARGV  4 scope   reply scope, as a hash
--       5 key     the session's key
--       6 ttl     ms that the record will live, 0 for ever
-- Returns {mark, 1 if the hint is new else 0, since, key, since, key, ...}: the mark of this announcement,
-- and the other hints.

--@include lib/wait_index

local hints = hints_of(ARGV[4])
local answer = {now_us, find(hints, ARGV[5]) and 0 or 1}
for _, hint in ipairs(hints) do
  if hint.key ~= ARGV[5] then
    answer[#answer + 1] = hint.since
    answer[#answer + 1] = hint.key
  end
end
local expires = ARGV[6] == '0' and 0 or now + ARGV[6]
local hint = find(hints, ARGV[5])
if hint then
  local marks = marks_beside(hint, '')
  marks[#marks + 1] = now_us
  hint.marks = table.concat(marks, ',')
else
  hints[#hints + 1] = {since = '0', marks = now_us, expires = whole(expires), key = ARGV[5]}
end
set_hints(ARGV[4], hints)
extend(expires)
return answer
