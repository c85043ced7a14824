if next_version and not waits_on then return now end
