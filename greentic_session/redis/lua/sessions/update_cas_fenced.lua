-- The verdict of update_cas on a lease that has ended; put after lib/check_fencing_token and lib/conflict.
--
-- Verdicts: -5 unknown   -8 lease lost. An earlier attempt, when the lease still ran, is answered by lib/update_reply.

local RING = ARGV[10]

--@include lib/record
--@include lib/operation_log
--@include lib/conflict
--@include lib/check_fencing_token

if not is_held then
  local ring = call('HGET', KEYS[1], 'ops') or ''
  if not recall(ops) and not recall(ring) then
    local is_as_expected = live and version == ARGV[8] and incarnation == ARGV[7]
    return {not is_as_expected and conflict(ring)[1] == -5 and -5 or -8}
  end
end

--@include lib/update_cas_verdict
--@include lib/write_record
--@include lib/update_lookup_ttl

if next_version and not waits_on then return now end

--@include lib/update_reply
