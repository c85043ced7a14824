-- Shared start of every script that writes a record. A script is put together by scripts.py from texts
-- like this one, which run one after the other and share their locals.
--
-- KEYS  1 record   HASH  cas inc owner ttl at body ops op0 ... op7, and of a session that waits or is
--                        claimed also wait since fence lease attempt (see lib/wait_state)
--       2 lookup   HASH  env/tenant -> the last ms that tenant's record lives (since the epoch, 0 for ever)
-- ARGV  1 op       16 hex digits that name this call, the same on each attempt at it
--       2 doubt    since when an earlier attempt may have been executed (ms since the epoch on this
--                  server's clock, with a fraction); '' if none was
--       3 field    env/tenant: the record's field in the lookup
--
-- Returns {verdict, version, incarnation, at}: an integer, then bulk strings; when a session that waits
-- was written, also its reply scope, its owner and its expiry, since the index of waits lives in another
-- slot. Verdicts:
--    1 done   0 absent   -1 exists   -2 conflict   -3 mismatch   -4 ambiguous   -5 unknown
--   -6 claimed   -7 event seen   -8 claim lost
--
-- Why atomic: a script runs alone. It judges first and writes last, since nothing rolls back; its
-- first write is the one that the server refuses when it is out of memory.
--
-- op0 to op7, and ops, the ring, remember writes: `op:secs:us:mark;`, the time since the epoch, mark = the
-- version that the call made, 0 for a touch, d for a delete. update_cas writes its entry to the field of
-- its version modulo 8, and need not move the others; every other script puts its own in front of the
-- ring, whose 382 bytes hold the last nine (what is cut off in the middle counts as gone). When a record
-- ends, lib/merge_operation_log brings all of them into the ring. A call that finds its own op was executed by an
-- earlier attempt (or by one that arrived late) and is answered, not repeated.
--
-- What costs time here: a command 0.5 us, a field of it 0.1 us, a function made 0.05 us and as much again
-- for each two locals around it, a number made into a text 0.3 us, or passed as it is. So these
-- texts are no functions where nearly every call comes by. The body is never looked at.

local KEYS, ARGV, call = KEYS, ARGV, redis.call  -- 0.2 us sooner than globals
local op, doubt, field = ARGV[1], ARGV[2], ARGV[3]

local time = call('TIME')
local now = time[1] * 1000 + (time[2] - time[2] % 1000) / 1000
local stored = call('HMGET', KEYS[1], 'cas', 'inc', 'owner', 'ttl', 'at', 'lease', 'wait', RING)
local version, incarnation, owner, life = stored[1], stored[2], stored[3], stored[4]
local lease, waits_on, ops = stored[6], stored[7], stored[8] or ''
-- A record is absent from the instant it expires. The server removes it a moment later: Redis 7.0
-- keeps a script's view of expiry at the script's start while TIME goes on. A hash with nothing but
-- its ring is what a delete leaves. While a claim is held, life counts from the end of its lease.
local was = 0  -- when the record as it was found expires, 0 never
if version and life ~= '0' then
  was = stored[5] + life
  if lease and lease + life > was then was = lease + life end
end
local live = version and (was == 0 or now < was)

-- What lib/write_record and lib/update_lookup_ttl are told by the verb, and the verb by them.
local next_version, inc, added, expires, ends, keep, reply
