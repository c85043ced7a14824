local RING = 'ops'

--@include lib/record
--@include lib/operation_log
--@include lib/put_verdict
--@include lib/merge_operation_log
--@include lib/write_record
--@include lib/update_lookup_ttl
--@include lib/token_reply
