-- Activates a generation under construction; the previous one stays, for a rollback.
-- The new one is complete if it has reached every watermark of the one before. What it has not
-- reached becomes its targets (t:); commits delete a target when they reach it. If one of the two has
-- several shards, it is unsettled, so not complete, until settle.lua has run: at this shard nobody knows
-- what the other shards have counted.
-- ARGV: 1 generation, 2 build token, 3 '1' = activate it although it is behind, 4 '1' = activate it
--       although it has fewer events, 5 time in ms, 6 number of writes of sums and
--       identities that it must have had ('' = any), 7.. sources ("topic id:partition") whose missing
--       offsets nobody has any more: they get no target
-- Returns {'ok', previous generation or '', behind}, {'fenced'}, {'behind', behind}, or {'fewer',
-- events, events of the active one}; behind is flat {source, watermark, target, ...}. Only 'ok' has
-- changed anything. Safe to repeat: a generation that this token has activated answers 'ok' again.
local active = redis.call('GET', KEYS[1])
local state = redis.call('HMGET', meta, 'building', 'token', 'events', 'previous', 'w:rebuild:0')
if active == gen and not state[1] and state[2] == ARGV[2] then
  return {'ok', state[4] or '', {}}
end
if state[1] ~= ARGV[2] or (ARGV[6] ~= '' and state[5] ~= ARGV[6]) then return {'fenced'} end
local behind, missing = {}, 0
if active then
  local former = base .. active .. ':meta'
  together(former)
  local reach = reach_of(redis.call('HGETALL', former))
  for i = 7, #ARGV do reach[ARGV[i]] = nil end
  behind = behind_of(reach)
  if #behind > 0 and ARGV[3] ~= '1' then return {'behind', behind} end
  local events = redis.call('HGET', former, 'events')
  for i = 1, #behind, 3 do missing = missing + behind[i + 2] - behind[i + 1] end
  -- An offset has at most one event, so what it has yet to reach explains no more than `missing`.
  if ARGV[4] ~= '1' and events and tonumber(state[3]) + missing < tonumber(events) then
    return {'fewer', state[3], events}
  end
  redis.call('HSET', former, 'replaced_ms', ARGV[5])
end
if redis.call('HEXISTS', meta, 'shards') == 1
  or active and redis.call('HEXISTS', base .. active .. ':meta', 'shards') == 1 then
  redis.call('HSET', meta, 'unsettled', active or '0', 'given_up', table.concat(ARGV, ' ', 7))
end
for i = 1, #behind, 3 do redis.call('HSET', meta, 't:' .. behind[i], behind[i + 2]) end
redis.call('HDEL', meta, 'building', 'w:rebuild:0', 'f:rebuild:0')
local stamp = new_stamp('s')
redis.call('HSET', meta, 'previous', active or '', 'stamp', stamp, 'stamp_u', stamp)
complete_if_whole()
redis.call('SET', KEYS[1], gen)
redis.call('DEL', base .. 'removed')
return {'ok', active or '', behind}
