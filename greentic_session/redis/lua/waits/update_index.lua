-- Enter one hint, take out others, remember events.
--
-- KEYS, ARGV 1-3, why atomic: see lib/wait_index.
-- ARGV  4 most     how many events to remember
--       5 memory   ms to remember them
--       6 scope    of the hint to enter, '' for none
--       7 key      its session
--       8 since    us, as in the record; 0 to enter nothing, but prolong what is there
--       9 expires  ms since the epoch, 0 never
--      10 mark     the caller's own announcement of it, '' for none
--      11 retired  how many hints to take out; each is followed by four: scope, key, since (us, up to
--                  which registration; -1 if it was announced only; -2 to end an announcement and
--                  leave the hint), the caller's own mark or ''
--      12 ...      those, then pairs of digest and ms of the events, the newest last
-- Returns {1}.

--@include lib/wait_index
--@include lib/event_set

local last = 11 + 4 * ARGV[11]
if #ARGV > last then redis.call('ZCARD', KEYS[2]) end  -- should another type stand there, fail here
-- Nothing refuses HDEL, and once a script has written, the server lets it finish. So an index is put in
-- order when memory is full.
redis.call('HDEL', KEYS[1], '')
local was_for_ever = false  -- whether something has ended that may have let the index live for ever
for i = 12, last, 4 do
  local hints = hints_of(ARGV[i])
  local hint, at = find(hints, ARGV[i + 1])
  if hint then
    local since = tonumber(ARGV[i + 2])
    unmark(hint, ARGV[i + 3])
    was_for_ever = was_for_ever or ARGV[i + 3] ~= ''
    if since ~= -2 and hint.marks == '0' and tonumber(hint.since) <= math.max(since, 0) then
      table.remove(hints, at)
      was_for_ever = was_for_ever or hint.expires == '0'
    end
    set_hints(ARGV[i], hints)
  end
end
if ARGV[6] ~= '' then
  local hints = hints_of(ARGV[6])
  local hint = find(hints, ARGV[7])
  if not hint and ARGV[8] ~= '0' then
    hint = {since = '0', marks = '0', key = ARGV[7]}
    hints[#hints + 1] = hint
  end
  if hint then
    unmark(hint, ARGV[10])
    if tonumber(hint.since) < tonumber(ARGV[8]) then hint.since = ARGV[8] end
    was_for_ever = was_for_ever or (hint.expires == '0' and ARGV[9] ~= '0')
    hint.expires = ARGV[9]
    set_hints(ARGV[6], hints)
    extend(tonumber(ARGV[9]))
  end
end
-- Now and then look at all: hints of sessions that expired unread go, and the index lives as long as the
-- longest that is left.
if was_for_ever or redis.call('HLEN', KEYS[1]) % 64 == 63 then
  local longest
  local all = redis.call('HGETALL', KEYS[1])
  for i = 1, #all, 2 do
    local hints, kept = hints_of(all[i]), {}
    for _, hint in ipairs(hints) do
      local ends = tonumber(hint.expires)
      if ends == 0 or ends > now or #marks_beside(hint, '') > 0 then
        kept[#kept + 1] = hint
        if ends == 0 or (longest ~= 0 and (not longest or ends > longest)) then longest = ends end
      end
    end
    if #kept < #hints then set_hints(all[i], kept) end
  end
  if longest and longest ~= 0 then redis.call('PEXPIREAT', KEYS[1], whole(longest - 1)) end
end
if #ARGV > last then
  for i = last + 1, #ARGV, 2 do
    redis.call('ZADD', KEYS[2], ARGV[i + 1], ARGV[i])
  end
  trim_events(KEYS[2], ARGV[#ARGV - 1], ARGV[4], ARGV[5])
  redis.call('PEXPIREAT', KEYS[2], whole(now + ARGV[5] - 1))
end
return {1}
