-- Writes members. Include it after lib/affinity and lib/fencing_retention.
--
-- Reads: KEYS call now whole last_ms parse_member of lib/affinity.
-- Functions: sweep_members, write_member.

local TOKEN_FIELD = '\nfence'  -- no worker's name has a newline

-- Remove members whose lease has ended, and let the key live as long as the longest lease, and the highest fencing
-- token.
local function sweep_members()
  local last_end = 0
  local all = call('HGETALL', KEYS[2])
  for i = 1, #all, 2 do
    local kept_until
    if all[i] == TOKEN_FIELD then
      kept_until = retention_end(tonumber(all[i + 1]) or 0, now)
    else
      kept_until = parse_member(all[i], all[i + 1]) or 0
    end
    if kept_until <= now then
      call('HDEL', KEYS[2], all[i])
    else
      last_end = math.max(last_end, kept_until)
    end
  end
  if last_end > 0 then call('PEXPIREAT', KEYS[2], last_ms(last_end)) end
end

-- Write a member, and return the reply of join and renew.
local function write_member(worker, fencing_token, attempt, lease_end)
  call('HSET', KEYS[2], worker, whole(lease_end) .. ':' .. fencing_token .. ':' .. attempt .. ':' .. whole(now))
  sweep_members()
  return {1, fencing_token, whole(lease_end), whole(lease_end - now)}
end
