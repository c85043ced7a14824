-- Return an owner's generation. If there is none, store a new one.
--
-- KEYS  1 generation  STRING  see lib/generation
-- ARGV 1-3: see lib/generation. ARGV 3 is how long it lives at least, in ms from now
-- ARGV  4 random  for a new generation
-- Returns {1, generation}.
-- A repeated call returns the generation that is stored then.
-- Why atomic: a script runs alone. It decides first and writes last, because nothing rolls back.

--@include lib/generation

if not stored then
  stored = generation_from(ARGV[4])
  call('SET', KEYS[1], stored, 'PX', ARGV[3])
elseif left ~= -1 and left < ms then
  call('PEXPIRE', KEYS[1], ARGV[3])
end
return {1, stored}
