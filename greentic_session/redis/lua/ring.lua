-- Where the script remembers itself: see record.lua.

local RING = 'ops'
