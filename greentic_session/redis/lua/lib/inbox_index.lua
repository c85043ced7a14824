-- Shared start of the scripts on the index of an inbox.
--
-- KEYS  1 index   ZSET  env/tenant/key of a session that may have mail -> when it is to be looked at (ms since the
--                       epoch, with three digits after the point)
--                       token!env/tenant/key, an expectation: somebody is about to bring mail -> when the session
--                       is to be looked at, should he not come to say more
-- ARGV  1, 2      as for other scripts; not needed here, but for inbox/index_next_due: a repeated call comes to the same, or
--                 is harmless
--       3 member  the session (not with inbox/index_next_due and inbox/index_requeue)
--
-- Why atomic: a script runs alone. The index is a hint: what counts is what a mailbox says of itself. A
-- session's score changes with whatever happens to its hint, so that who looked at the session and found
-- nothing takes the hint out only if nothing has happened to it since. An expectation goes when its maker says
-- so, or its time has come: so no look in between, which finds no mail yet, leaves the mail without a hint.

local time = redis.call('TIME')
local now = time[1] * 1000 + time[2] / 1000

local function score(at)
  return string.format('%.3f', at)
end

-- Whom an expectation is about, nil if it is none: no env holds a `!`.
local function expected(member)
  return string.match(member, '^%x+!(.+)$')
end

-- Let the last of those be due again that were put off since then, for ARGV 3 ms each: who was to look at them
-- may not. Whoever looks at one that somebody has in hand is told so.
local function recall_since(since, most)
  local from, to = score(since + ARGV[3]), score(now + ARGV[3])
  local put_off = redis.call('ZREVRANGEBYSCORE', KEYS[1], to, from, 'LIMIT', '0', most)
  for _, member in ipairs(put_off) do
    if not expected(member) then
      redis.call('ZREM', KEYS[1], member)  -- nothing refuses it: so mail is taken when memory is full
      redis.call('ZADD', KEYS[1], score(now), member)
    end
  end
end
