-- Shared by the scripts that remove a record; put after record.lua.

-- Remove the record and its field in the lookup. DEL goes first, so it works when memory is full. The
-- ring stays for `keep` ms, so that a later attempt of this call finds its answer and leaves alone what
-- was created under the name since.
local function remove(keep)
  local ring = remember('d')
  lookup_size()
  redis.call('DEL', KEYS[1])
  redis.call('HSET', KEYS[1], 'ops', ring)
  redis.call('PEXPIRE', KEYS[1], keep)
  redis.call('HDEL', KEYS[2], field)
  trim_lookup()
end
