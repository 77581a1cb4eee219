-- Lowers a watermark of a generation that is not active: the topic was truncated, and from that offset on
-- its records are others. A build is then refused to whoever fills it.
-- ARGV: 1 generation, 2 watermark field, 3 offset. Returns {'ok'}.
local watermark = tonumber(redis.call('HGET', meta, ARGV[2]) or '')
if redis.call('GET', KEYS[1]) ~= gen and watermark and watermark > tonumber(ARGV[3]) then
  redis.call('HSET', meta, ARGV[2], ARGV[3])
  disown()
end
return {'ok'}
