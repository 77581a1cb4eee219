-- Marks a generation that may lack keys, because Redis has evicted some: only a rebuild, that is another
-- generation, is complete again. ARGV: 1 generation, 2 time in ms.
-- Returns {1 if it exists and was not marked, else 0}.
if redis.call('HEXISTS', meta, 'day') == 0 then return {0} end
explain_incomplete()
redis.call('HSET', meta, 'complete', '0')
return {redis.call('HSETNX', meta, 'evicted', ARGV[2])}
