-- Remove the record and its field in the lookup, if a verb set `keep` and found no other type under the
-- lookup's name. DEL goes first, so it works when memory is full. The ring stays for `keep` ms, so that a
-- later attempt of this call finds its answer and leaves alone what was created under the name since.

if keep then
  call('DEL', KEYS[1])
  call('HSET', KEYS[1], 'ops', remember(ops, time, 'd'))
  call('PEXPIRE', KEYS[1], keep)
  added = call('HDEL', KEYS[2], field)
end
