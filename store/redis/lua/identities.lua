-- Stores a part of the identities of one slot in a generation under construction.
-- ARGV: 1 generation, 2 build token, 3 slot, 4 number of identities in the whole slot,
--       5.. bucket, concatenated identities, ... The buckets are those of the whole slot.
-- Returns {'ok'} or {'fenced'}. Safe to repeat: it sets the number, which commits search by.
if redis.call('HGET', meta, 'building') ~= ARGV[2] then return {'fenced'} end
redis.call('HSET', home .. 'ids:' .. ARGV[3], unpack(ARGV, 5))
redis.call('HSET', meta, 'd:' .. ARGV[3], ARGV[4])
return {'ok'}
