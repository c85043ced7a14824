local RING = ARGV[10]

--@include lib/record
--@include lib/update_cas_verdict
--@include lib/write_record
--@include lib/update_lookup_ttl

if next_version and not waits_on then return now end

--@include lib/operation_log
--@include lib/conflict
--@include lib/update_reply
