-- The end of nearly every update_cas; put after lookup.lua.

if next_version and not waits_on then return now end
