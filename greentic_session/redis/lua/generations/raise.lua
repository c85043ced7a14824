-- Store a new generation of an owner. It lives as long as the one before.
--
-- KEYS  1 generation  STRING  see lib/generation
-- ARGV 1-3: see lib/generation. ARGV 3 is how long it lives at least, in ms from now
-- ARGV  4 random  for the new generation
-- Returns {1, generation}.
-- A repeated call raises it again.
-- Why atomic: a script runs alone. It decides first and writes last, because nothing rolls back.

--@include lib/generation

stored = generation_from(ARGV[4])
-- PERSIST is allowed at maxmemory, and after a script's first write the server no longer rejects OOM commands. So this
-- also works when memory is full.
call('PERSIST', KEYS[1])
if left == -1 then
  call('SET', KEYS[1], stored)
else
  call('SET', KEYS[1], stored, 'PX', string.format('%.0f', math.max(left, ms)))
end
return {1, stored}
