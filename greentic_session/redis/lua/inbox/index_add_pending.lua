-- Add a pending entry to the index before the message is enqueued, because each message needs an entry.
--
-- KEYS  1 index    ZSET  see lib/inbox_index
--       2 tenant   ZSET  see lib/inbox_index
-- ARGV 1-2: see lib/inbox_index.
-- ARGV  3 entry     the pending entry, token!env/tenant/key
--       4 grace_ms  ms after which the session is due if the caller dies
-- Returns {1}.
-- Verdicts: 1 done
-- A repeated call writes the same entry, due later.
-- Why atomic: a script runs alone.

local entry, grace_ms = ARGV[3], ARGV[4]

--@include lib/inbox_index

put_entry(entry, score(now + grace_ms))
return {1}
