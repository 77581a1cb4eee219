-- Notes offsets that these counters never saw, and that history has or may have.
-- ARGV: 1 generation, 2 source ("topic id:partition"), 3 first offset, 4 end.
-- Returns {'ok'}, or {'none'} if the generation is gone or has counted past the end.
local state = redis.call('HMGET', meta, 'complete', 'w:' .. ARGV[2])
local watermark = tonumber(state[2] or 0)
if not state[1] or watermark >= tonumber(ARGV[4]) then return {'none'} end
explain_incomplete()
local first = math.max(tonumber(ARGV[3]), watermark)
redis.call('HSET', meta, string.format('gap:%s:%.0f', ARGV[2], first), ARGV[4], 'complete', '0')
return {'ok'}
