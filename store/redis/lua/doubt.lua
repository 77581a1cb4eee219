-- Notes that a generation under construction lacks events of history, so that it is not complete.
-- ARGV: 1 generation, 2 build token. Returns {'ok'} or {'fenced'}. Safe to repeat.
if redis.call('HGET', meta, 'building') ~= ARGV[2] then return {'fenced'} end
redis.call('HSET', meta, 'unproven', '1')
return {'ok'}
