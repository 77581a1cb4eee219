-- Ends the counters of a tenant that is removed: from then on nothing is committed to them, and nobody
-- reads them. `removed` notes what was counted, so that records that are read again are not taken for new
-- ones: see create.lua.
-- ARGV: 1 unused, 2.. source (`<topic id>:<partition>`), offset up to which history has it, ...
-- Returns {number of the last generation, {source, offset, ...}}, the latter from `removed`, which has the
-- time of the removal besides (at_s).
local removed = base .. 'removed'
local function note(source, offset)
  if offset > tonumber(redis.call('HGET', removed, source) or -1) then
    redis.call('HSET', removed, source, string.format('%d', offset))
  end
end
local active = redis.call('GET', KEYS[1])
if active then
  together(base .. active .. ':meta')
  local reach = reach_of(redis.call('HGETALL', base .. active .. ':meta'))
  for source, offset in pairs(reach) do note(source, offset) end
end
for i = 2, #ARGV, 2 do note(ARGV[i], tonumber(ARGV[i + 1])) end
if active then redis.call('HSET', removed, 'at_s', redis.call('TIME')[1]) end
redis.call('DEL', KEYS[1])
return {redis.call('GET', base .. 'last') or '0', redis.call('HGETALL', removed)}
