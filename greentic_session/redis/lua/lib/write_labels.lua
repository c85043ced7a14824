-- Store for how long the entries of a live record hold, and the labels that they are written for. Include it after
-- lib/check_entries, and after the record is written.
--
-- Reads: KEYS 1, entries_until, new_labels ('-' leaves the stored ones), call.
-- Sets: nothing.

if entries_until then
  call('HSET', KEYS[1], 'until', entries_until)
  if new_labels == '' then
    call('HDEL', KEYS[1], 'labels')
  elseif new_labels ~= '-' then
    call('HSET', KEYS[1], 'labels', new_labels)
  end
end
