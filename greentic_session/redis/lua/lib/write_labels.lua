-- Store for how long the entries of a live record hold, and the labels that they are written for. Include it after
-- lib/check_entries, and after the record is written.
--
-- Reads: KEYS 1, entries_until, new_labels ('-' leaves the stored ones), live, call.
-- Sets: replaced_labels (the stored labels of a live record that gets others, otherwise nil).

if entries_until then
  if live and new_labels ~= '-' then
    replaced_labels = call('HGET', KEYS[1], 'labels') or nil
    if replaced_labels == new_labels then replaced_labels = nil end
  end
  call('HSET', KEYS[1], 'until', entries_until)
  if new_labels == '' then
    call('HDEL', KEYS[1], 'labels')
  elseif new_labels ~= '-' then
    call('HSET', KEYS[1], 'labels', new_labels)
  end
end
