-- The end of create and put; put after lib/update_lookup_ttl.

if live and waits_on then return {1, next_version, inc, text(now), waits_on, owner, text(expires)} end
return {1, next_version, inc, text(now)}
