-- Note that indexes are complete: every live session of a tenant has its entries.
--
-- KEYS  1 complete  ZSET  env/tenant or *, newline, name of a label or nothing -> 1
-- ARGV  1 operation_id     not used, because a repeat has the same effect
--       2 ambiguous_since  not used
-- ARGV 1-2: see above.
-- ARGV ... marks       members to add
-- Returns {1}.
-- Verdicts: 1 done
-- Why atomic: a script runs alone.

for i = 3, #ARGV do redis.call('ZADD', KEYS[1], '1', ARGV[i]) end
return {1}
