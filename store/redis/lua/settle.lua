-- Compares a shard of the active generation with what the shards of the generation before have counted:
-- what it has not reached becomes its targets (t:). At shard 0, which comes last, also ends the state
-- unsettled: only then may the generation be complete.
-- ARGV: 1 generation, 2 the generation before ('' = another shard than 0), 3.. source, watermark, ...
-- Returns {'ok', source, watermark, target, ...}; {'none'} if it is not active, or is settled.
if redis.call('GET', KEYS[1]) ~= gen then return {'none'} end
if ARGV[2] ~= '' and redis.call('HGET', meta, 'unsettled') ~= ARGV[2] then return {'none'} end
local reach = {}
for i = 3, #ARGV, 2 do reach[ARGV[i]] = tonumber(ARGV[i + 1]) end
local behind = behind_of(reach)
for i = 1, #behind, 3 do
  local target = tonumber(redis.call('HGET', meta, 't:' .. behind[i]) or 0)
  redis.call('HSET', meta, 't:' .. behind[i], string.format('%d', math.max(target, behind[i + 2])))
end
if #behind > 0 then redis.call('HSET', meta, 'complete', '0') end
if ARGV[2] ~= '' then
  redis.call('HDEL', meta, 'unsettled', 'given_up')
  complete_if_whole()
end
return {'ok', unpack(behind)}
