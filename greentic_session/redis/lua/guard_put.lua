-- The verdict of put on a lease that has ended; put after guard.lua.
--
-- Verdicts: -5 unknown   -8 lease lost. An earlier attempt, when the lease still ran, is answered by put.lua.

if not is_held and not recall(ops) then
  return {(overrun(ops, time) or outlived(ARGV[5])) and -5 or -8}
end
