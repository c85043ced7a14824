-- Write a record if none is live under its name.
--
-- KEYS, ARGV 1-3, returns, why atomic: see lib/record.
-- ARGV  4 owner   team/user
--       5 ttl     life in ms, 0 never expires
--       6 body    opaque bytes
--       7 inc     incarnation to give the record
-- Verdicts: 1 done   -1 exists   -3 mismatch   -5 unknown

local RING = 'ops'

--@include lib/record
--@include lib/operation_log

local mark, done_at = recall(ops)
if mark then return {1, mark, ARGV[7], done_at} end
if overrun(ops, time) then return {-5} end
if live then return {owner ~= ARGV[4] and -3 or -1} end
if outlived(ARGV[5]) then return {-5} end
next_version, inc = '1', ARGV[7]

--@include lib/merge_operation_log
--@include lib/write_record
--@include lib/update_lookup_ttl
--@include lib/token_reply
