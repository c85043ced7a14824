-- Check that a generation is the stored one, and let it outlive a session.
--
-- KEYS  1 generation  STRING  see lib/generation
-- ARGV 1-3: see lib/generation. ARGV 3 is the longest lifetime of the session in ms, 0 never expires
-- ARGV  4 generation  the one to confirm
-- Returns {verdict}.
-- Verdicts: 1 done   0 absent, or another one is stored
-- A repeated call has the same effect. If the generation was raised meanwhile, its verdict is 0.
-- Why atomic: a script runs alone. It decides first and writes last, because nothing rolls back.

--@include lib/generation

if stored ~= ARGV[4] then return {0} end
if left ~= -1 and ms == 0 then
  call('PERSIST', KEYS[1])
elseif left ~= -1 and left <= ms then
  call('PEXPIRE', KEYS[1], string.format('%.0f', ms + 1))  -- a session expires when now >= its time
end
return {1}
