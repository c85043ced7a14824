-- Writes members. Include it after lib/affinity.
--
-- Reads: KEYS call now whole last_ms of lib/affinity.
-- Functions: sweep_members, write_member.

-- Remove members whose lease has ended, and let the key live as long as the longest lease.
local function sweep_members()
  local last_end = 0
  local all = call('HGETALL', KEYS[2])
  for i = 1, #all, 2 do
    local lease_end = tonumber(string.match(all[i + 1], '^(%d+):%d+:') or '0')
    if lease_end <= now then
      call('HDEL', KEYS[2], all[i])
    else
      last_end = math.max(last_end, lease_end)
    end
  end
  if last_end > 0 then call('PEXPIREAT', KEYS[2], last_ms(last_end)) end
end

-- Write a member, and return the reply of join and renew.
local function write_member(worker, fencing_token, attempt, lease_end)
  call('HSET', KEYS[2], worker, whole(lease_end) .. ':' .. fencing_token .. ':' .. attempt)
  sweep_members()
  return {1, fencing_token, whole(lease_end), whole(lease_end - now)}
end
