-- The verdict of put on a lease that has ended; put after lib/check_fencing_token.
--
-- Verdicts: -5 unknown   -8 lease lost. An earlier attempt, when the lease still ran, is answered by lib/put_verdict.

local RING = 'ops'

--@include lib/record
--@include lib/operation_log
--@include lib/check_fencing_token

if not is_held and not recall(ops) then
  return {(overrun(ops, time) or outlived(ARGV[5])) and -5 or -8}
end

--@include lib/put_verdict
--@include lib/merge_operation_log
--@include lib/write_record
--@include lib/update_lookup_ttl
--@include lib/token_reply
