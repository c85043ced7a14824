-- Refuse a write of a lower schema version than that of the live record. Include it after the decision to write, and
-- before the first write. Only stores with a schema_version pass `new_schema_version`.
--
-- Reads: KEYS 1, new_schema_version (of the script, nil without a check), and the locals of lib/record.

if new_schema_version and live then
  local stored_schema_version = tonumber(call('HGET', KEYS[1], 'schema') or nil)
  if stored_schema_version and stored_schema_version > tonumber(new_schema_version) then return {-10} end
end
