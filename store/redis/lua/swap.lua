-- Makes a generation that was being built the active one; the one before stays, for a rollback.
-- ARGV: 1 generation, 2 build token. Answers {'ok', generation before or ''} or {'fenced'}.
local active = redis.call('GET', KEYS[1])
if redis.call('HGET', meta, 'building') ~= ARGV[2] then return {'fenced'} end
redis.call('HDEL', meta, 'building')
redis.call('HSET', meta, 'complete', '1', 'previous', active or '')
redis.call('SET', KEYS[1], gen)
return {'ok', active or ''}
