-- Shared start of the scripts on events that came before their wait.
--
-- KEYS  1 early    LIST  events, the oldest first: as the letters in lib/mailbox. Of one that a session was found
--                        for, `!length:key` comes after the time: it is that session's whatever happens next
-- ARGV  1, 2       as for other scripts; not needed here: a repeated call comes to the same
--
-- Why atomic: a script runs alone.

-- The time of an event, the key of the session that it is for if there is one, and the rest.
local function opened(letter)
  local at, after = string.match(letter, '^(%d+)()')
  local length, start = string.match(letter, '^!(%d+):()', after)
  if not length then return at, nil, string.sub(letter, after) end
  return at, string.sub(letter, start, start + length - 1), string.sub(letter, start + length)
end

local function assigned(at, key, rest)
  return at .. '!' .. #key .. ':' .. key .. rest
end
