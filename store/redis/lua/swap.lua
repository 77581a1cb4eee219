-- Activates a generation under construction; the previous one stays, for a rollback.
-- ARGV: 1 generation, 2 build token. Returns {'ok', previous generation or ''} or {'fenced'}.
local active = redis.call('GET', KEYS[1])
if redis.call('HGET', meta, 'building') ~= ARGV[2] then return {'fenced'} end
redis.call('HDEL', meta, 'building')
redis.call('HSET', meta, 'complete', '1', 'previous', active or '')
redis.call('SET', KEYS[1], gen)
return {'ok', active or ''}
