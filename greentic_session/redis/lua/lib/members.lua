-- Writes members. Include it after lib/affinity and lib/fencing_retention.
--
-- Reads: KEYS call now whole last_ms parse_member of lib/affinity.
-- Functions: sweep_members, write_member.

local TOKEN_FIELD = '\nfence'  -- no worker's name has a newline

-- Removes members whose lease has ended. Lets the key live at least until `kept_ms`, the end of the caller's lease (0
-- if it leaves), and as long as the highest fencing token is kept. The cost does not grow with the group. Up to 64
-- fields, this reads all of them, and the key lives as long as the longest lease. With more fields, this reads 4 random
-- ones, and the lifetime only grows.
local function sweep_members(kept_ms)
  local MANY, SAMPLE = 64, '4'
  local last_end = kept_ms
  local size = call('HLEN', KEYS[2])
  local fields
  if size > MANY then
    fields = call('HRANDFIELD', KEYS[2], SAMPLE, 'WITHVALUES')
    fields[#fields + 1] = TOKEN_FIELD
    fields[#fields + 1] = call('HGET', KEYS[2], TOKEN_FIELD) or '0'
  else
    fields = call('HGETALL', KEYS[2])
  end
  for i = 1, #fields, 2 do
    local kept_until
    if fields[i] == TOKEN_FIELD then
      kept_until = retention_end(tonumber(fields[i + 1]) or 0, now)
    else
      kept_until = parse_member(fields[i], fields[i + 1]) or 0
    end
    if kept_until <= now then
      call('HDEL', KEYS[2], fields[i])
    else
      last_end = math.max(last_end, kept_until)
    end
  end
  local MARGIN = 1000  -- ms, more than the clock readings in one script differ
  local left = size > MANY and call('PTTL', KEYS[2])
  if left and (left == -1 or now + left >= last_end + MARGIN) then return end
  if last_end > 0 then call('PEXPIREAT', KEYS[2], last_ms(left and last_end + 2 * MARGIN or last_end)) end
end

-- Writes a member, and returns the reply of join and renew.
local function write_member(worker, fencing_token, attempt, lease_end)
  call('HSET', KEYS[2], worker, whole(lease_end) .. ':' .. fencing_token .. ':' .. attempt .. ':' .. whole(now))
  sweep_members(lease_end)
  return {1, fencing_token, whole(lease_end), whole(lease_end - now)}
end
