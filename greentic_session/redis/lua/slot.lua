-- Where update_cas remembers itself: see record.lua.

local RING = ARGV[10]
