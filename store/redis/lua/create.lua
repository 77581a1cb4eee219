-- Creates a generation. ARGV: 1 generation, 2 window day, 3 time zone, 4 complete (0 or 1),
-- 5 build token ('' = activate it at once), 6.. watermark field, watermark, ...
-- Returns {'ok'}, {'exists', active generation} if the token is '' and the tenant has one, or {'taken'}
-- if there are keys of a generation with this number: Redis has evicted the key of the last number, say.
-- An active generation whose meta is gone has lost its watermarks, so it cannot be continued: another one
-- takes its place, and what is left of it is dropped like a replaced one.
local active = redis.call('GET', KEYS[1])
if active then together(base .. active .. ':meta') end
if ARGV[5] == '' and active and redis.call('HEXISTS', base .. active .. ':meta', 'day') == 1 then
  return {'exists', active}
end
if ARGV[5] ~= '' and redis.call('HGET', meta, 'building') == ARGV[5] then
  return {'ok'} -- repeated, because the answer was lost
end
local traces = {meta, home .. 'dropped', home .. 'offers', home .. 'pending'}
for _, kind in ipairs(KINDS) do
  for _, period in ipairs({'a', 'm', 'w'}) do traces[#traces + 1] = rank_of(kind, period) end
end
if active == gen or redis.call('EXISTS', unpack(traces)) > 0 then return {'taken'} end
if ARGV[5] == '' then
  if active then redis.call('HSET', base .. active .. ':meta', 'replaced_ms', redis.call('TIME')[1] .. '000') end
  redis.call('SET', KEYS[1], gen)
  if ARGV[4] == '0' then redis.call('HSET', meta, 'unproven', '1') end
else
  redis.call('HSET', meta, 'building', ARGV[5], 'token', ARGV[5])
end
local stamp = new_stamp('c')
redis.call(
  'HSET', meta, 'day', ARGV[2], 'rolled', ARGV[2], 'timezone', ARGV[3], 'complete', ARGV[4], 'events', '0',
  'format', FORMAT, 'stamp', stamp, 'stamp_u', stamp)
for i = 6, #ARGV, 2 do redis.call('HSET', meta, ARGV[i], ARGV[i + 1]) end
if ARGV[5] == '' then
  -- The tenant was removed before: counting begins where it ended. Soon after the removal exactly there,
  -- as workers that had yet to notice it may have read events of the tenant and not counted them.
  local removed = redis.call('HGETALL', base .. 'removed')
  local at_s = tonumber(redis.call('HGET', base .. 'removed', 'at_s') or 0)
  local is_recent = tonumber(redis.call('TIME')[1]) - at_s < 600
  for i = 1, #removed, 2 do
    local source, offset = removed[i], removed[i + 1]
    local given = tonumber(redis.call('HGET', meta, 'w:' .. source) or 0)
    if source ~= 'at_s' and (is_recent or given < tonumber(offset)) then
      redis.call('HSET', meta, 'w:' .. source, offset, 'f:' .. source, offset)
    end
  end
  redis.call('DEL', base .. 'removed')
end
return {'ok'}
