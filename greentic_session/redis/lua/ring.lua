local RING = 'ops'
