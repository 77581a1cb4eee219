-- Forgets gaps that hold no event. ARGV: 1 generation, 2.. fields gap:<source>:<first offset>.
-- Returns {'ok', '1' if the generation is complete now, else '0'}.
if redis.call('EXISTS', meta) == 0 then return {'ok', '0'} end
for i = 2, #ARGV do redis.call('HDEL', meta, ARGV[i]) end
complete_if_whole()
return {'ok', redis.call('HGET', meta, 'complete')}
