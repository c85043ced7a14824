-- Check that the session's entries in the indexes outlive the record that the script is about to write. Include it
-- before the first write.
--
-- An index entry is written before its record or in the same step, so a live session always has its entries:
--    * On one server, the caller passes the names of the indexes in KEYS, and lib/write_entries writes the entries.
--    * In a cluster, the indexes are in other slots. The caller writes the entries first, and passes for how long.
-- Entries hold for twice the lifetime. So a write that changes no indexed label needs new ones once per lifetime.
-- Otherwise this costs one field and a comparison.
--
-- Reads: KEYS from FIRST_ENTRY on, is_writing (whether the script writes the record), held_ms (ms for which the caller
--    has written entries, '0' without an end, '' if it has not, nil if the record needs no entries), new_labels (the
--    indexed labels, '-' to keep the stored ones, '-' newline owner newline labels to keep these), new_ttl_ms, and the
--    locals of lib/record.
-- Sets: entries_until (new value of the field until, nil if the entries are sufficient), entry_member and replaced_labels
--    (nil), new_labels ('-' to keep the stored ones).
-- Returns {-11, ms for which entries must hold, owner, labels, value of until or ''} before any write, if entries are
-- missing, or if the caller names the indexes of an owner or of labels that the record no longer has.

local entries_until, entry_member, replaced_labels
if is_writing and held_ms then
  local kept
  if #new_labels > 1 and string.sub(new_labels, 1, 2) == '-\n' then
    kept, new_labels = string.sub(new_labels, 3), '-'
  end
  local length = tonumber(new_ttl_ms)  -- ms for which the record lives, 0 without an end
  if length ~= 0 and live and lease and lease - now > 0 then length = length + (lease - now) end
  local is_sufficient = live and entries_end
  if length == 0 or entries_end == '0' then
    is_sufficient = is_sufficient and length == 0 and entries_end == '0'
  elseif is_sufficient then
    is_sufficient = now + length <= (tonumber(entries_end) or 0)
  end
  if is_sufficient and new_labels ~= '-' then
    is_sufficient = new_labels == (call('HGET', KEYS[1], 'labels') or '')
  end
  if not is_sufficient then
    local hold_ms = tonumber(held_ms)
    local stored_owner, labels = live and owner or '', live and call('HGET', KEYS[1], 'labels') or ''
    local is_named = KEYS[FIRST_ENTRY] or hold_ms and (hold_ms == 0 or length ~= 0 and hold_ms >= length)
    if not is_named or kept and kept ~= stored_owner .. '\n' .. labels then
      return {-11, 2 * length .. '', stored_owner, labels, live and entries_end or ''}
    end
    if KEYS[FIRST_ENTRY] then hold_ms = 2 * length end
    entries_until = hold_ms == 0 and '0' or (now + hold_ms) .. ''
    if KEYS[FIRST_ENTRY] then call('HLEN', KEYS[2]) end  -- fails as below. The entries are written before the lookup
    for i = FIRST_ENTRY, #KEYS do
      call('ZCARD', KEYS[i])  -- fails before the first write if the key holds another type of value
    end
  end
end
