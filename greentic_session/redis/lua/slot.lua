local RING = ARGV[10]
