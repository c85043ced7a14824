-- Enter an expectation before the mail, so that there is no mail without a hint.
--
-- KEYS, ARGV 1-2, why atomic: see lib/inbox_index.
-- ARGV  3 member  the expectation
--       4 grace   ms after which the session is looked at, should its admitter not come to say more
-- Returns {1}.

--@include lib/inbox_index

redis.call('ZADD', KEYS[1], score(now + ARGV[4]), ARGV[3])
return {1}
