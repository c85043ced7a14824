-- Keep events no longer.
--
-- KEYS  1 early    LIST  see keep.lua
-- ARGV  1, 2       as for other scripts; not needed here: a repeated call finds nothing left to do
--       3 ...      the events, as they stand there
-- Returns {1}. Why atomic: a script runs alone.

for i = 3, #ARGV do
  redis.call('LREM', KEYS[1], '1', ARGV[i])
end
return {1}
