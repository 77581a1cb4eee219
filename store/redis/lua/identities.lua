-- Stores a part of the identities of one slot in a generation under construction.
-- ARGV: 1 generation, 2 build token, 3 slot, 4 number of identities in the whole slot,
--       5 number of the build's writes before, 6.. bucket, concatenated identities with owners, ... The
--       buckets are those of the whole slot: see slots.lua.
-- Returns {'ok'}, or {'fenced'}: it is not under construction, or Redis has lost writes of it. Safe to
-- repeat: it sets the number of identities, which commits search by, and the number of writes.
local state = redis.call('HMGET', meta, 'building', 'w:rebuild:0')
local before, written = tonumber(ARGV[5]), tonumber(state[2] or '')
if state[1] ~= ARGV[2] or (written ~= before and written ~= before + 1) then return {'fenced'} end
redis.call('HSET', home .. 'own:' .. ARGV[3], unpack(ARGV, 6))
redis.call('HSET', meta, 'o:' .. ARGV[3], ARGV[4], 'w:rebuild:0', before + 1)
return {'ok'}
