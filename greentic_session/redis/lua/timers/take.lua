-- Take the timers that have been due for longest, for the time of a lease.
--
-- KEYS  1 timers     ZSET  see lib/timers
--       2 payloads   HASH  see lib/timers
--       3 taken      HASH  see lib/timers
--       4 cancelled  ZSET  see lib/timers
-- ARGV 1-2: see lib/timers.
-- ARGV  3 grace_ms  ms for which cancelled timers are remembered
--       4 attempt   names this call, see lib/timers
--       5 most      limit on the number of timers
--       6 lease_ms  ms after which unfinished timers are due again
-- Returns {1, ms until the next timer is due or '', id, due, payload, ...}.
-- Verdicts: 1 done
-- A repeated call returns the timers that its earlier attempt took.
-- If a taken timer starts in the future, the clock was set back. Then its lease ends earlier by the same time.
-- Why atomic: a script runs alone. It decides first and writes last, because nothing rolls back.

local attempt, most, lease_ms = ARGV[4], ARGV[5], ARGV[6]

--@include lib/timers

local reply = {1, ''}

local function add(timer_id, due)
  local payload = call('HGET', KEYS[2], timer_id)
  if not payload then return false end
  reply[#reply + 1] = timer_id
  reply[#reply + 1] = due
  reply[#reply + 1] = payload
  return true
end

local first = call('ZRANGE', KEYS[1], '0', '0', 'WITHSCORES')
if (ambiguous_since ~= '' or (first[1] and tonumber(first[2]) > now)) and call('HLEN', KEYS[3]) > 0 then
  local taken = call('HGETALL', KEYS[3])
  for i = 1, #taken, 2 do
    local due, start, holder = parse_taken(taken[i + 1])
    if holder and tonumber(start) > now then
      local lease_end = call('ZSCORE', KEYS[1], taken[i])
      if lease_end then
        begin_at_maxmemory()
        call('ZADD', KEYS[1], score(lease_end - start + now), taken[i])
        call('HSET', KEYS[3], taken[i], due .. ':' .. score(now) .. ':' .. holder)
      end
    end
    if holder == attempt then add(taken[i], due) end
  end
end
if #reply == 2 then
  local due_now = call('ZRANGEBYSCORE', KEYS[1], '-inf', score(now), 'LIMIT', '0', most)
  if due_now[1] then begin_at_maxmemory() end
  for _, timer_id in ipairs(due_now) do
    local due = parse_taken(call('HGET', KEYS[3], timer_id)) or call('ZSCORE', KEYS[1], timer_id)
    if add(timer_id, due) then
      call('ZADD', KEYS[1], score(now + lease_ms), timer_id)
      call('HSET', KEYS[3], timer_id, due .. ':' .. score(now) .. ':' .. attempt)
    else  -- another program removed the payload
      call('ZREM', KEYS[1], timer_id)
      call('HDEL', KEYS[3], timer_id)
    end
  end
end
first = call('ZRANGE', KEYS[1], '0', '0', 'WITHSCORES')
if first[1] then reply[2] = score(math.max(0, first[2] - now)) end
return reply
