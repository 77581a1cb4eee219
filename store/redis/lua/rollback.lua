-- Activates the previous generation.
-- ARGV: 1 expected active generation. Returns {'ok', generation} or {'none'}.
if redis.call('GET', KEYS[1]) ~= gen then return {'none'} end
local previous = redis.call('HGET', meta, 'previous')
if not previous or previous == '' or redis.call('EXISTS', base .. previous .. ':meta') == 0 then
  return {'none'}
end
redis.call('SET', KEYS[1], previous)
return {'ok', previous}
