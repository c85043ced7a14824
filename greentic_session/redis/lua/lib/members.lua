-- Shared by the scripts that change members; put after lib/affinity.

-- Take out members whose lease has ended, and let the rest live as long as the longest lease.
local function tidy_members()
  local last = 0
  local all = call('HGETALL', KEYS[2])
  for i = 1, #all, 2 do
    local ends = tonumber(string.match(all[i + 1], '^(%d+):%d+:') or '0')
    if ends <= now then
      call('HDEL', KEYS[2], all[i])
    else
      last = math.max(last, ends)
    end
  end
  if last > 0 then call('PEXPIREAT', KEYS[2], last_ms(last)) end
end

local function sit(worker, fence, attempt, ends)
  call('HSET', KEYS[2], worker, whole(ends) .. ':' .. fence .. ':' .. attempt)
  tidy_members()
  return {1, fence, whole(ends), whole(ends - now)}
end
