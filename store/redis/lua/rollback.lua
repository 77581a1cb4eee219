-- Activates the previous generation. What the active one has counted beyond it becomes its targets
-- (t:): it is complete when it has reached them.
-- It is unsettled if one of the two has several shards: see settle.lua.
-- ARGV: 1 expected active generation, 2 time in ms. Returns {'ok', generation, {source, watermark,
-- target, ...}} with the sources in which it is behind, or {'none'}.
if redis.call('GET', KEYS[1]) ~= gen then return {'none'} end
local previous = redis.call('HGET', meta, 'previous')
if previous and previous ~= '' then together(base .. previous .. ':meta') end
if not previous or previous == '' or redis.call('HEXISTS', base .. previous .. ':meta', 'day') == 0 then
  return {'none'}
end
local reach = reach_of(redis.call('HGETALL', meta))
local sharded = redis.call('HEXISTS', meta, 'shards') == 1
redis.call('HSET', meta, 'replaced_ms', ARGV[2])
meta = base .. previous .. ':meta'
local behind = behind_of(reach)
explain_incomplete()
for i = 1, #behind, 3 do redis.call('HSET', meta, 't:' .. behind[i], behind[i + 2]) end
if #behind > 0 then redis.call('HSET', meta, 'complete', '0') end
if sharded or redis.call('HEXISTS', meta, 'shards') == 1 then
  redis.call('HSET', meta, 'unsettled', gen, 'given_up', '', 'complete', '0')
end
redis.call('HDEL', meta, 'replaced_ms')
local stamp = new_stamp('b')
redis.call('HSET', meta, 'stamp', stamp, 'stamp_u', stamp)
redis.call('SET', KEYS[1], previous)
return {'ok', previous, behind}
