-- The verdict of update_cas on a lease that has ended; put after guard.lua and conflict.lua.
--
-- Verdicts: -5 unknown   -8 lease lost. An earlier attempt, when the lease still ran, is answered by updated.lua.

if not is_held then
  local ring = call('HGET', KEYS[1], 'ops') or ''
  if not recall(ops) and not recall(ring) then
    local is_as_expected = live and version == ARGV[8] and incarnation == ARGV[7]
    return {not is_as_expected and conflict(ring)[1] == -5 and -5 or -8}
  end
end
