-- Marks a generation complete that started empty and now holds all of history, unless something else
-- is missing. ARGV: 1 generation. Returns {'ok'}.
if redis.call('EXISTS', meta) == 1 then
  redis.call('HDEL', meta, 'unproven')
  complete_if_whole()
end
return {'ok'}
