-- Decides whether a generation is dropped, and notes the times that this depends on.
-- ARGV: 1 generation, 2 time in ms, 3 ms for which a replaced generation is kept,
--       4 ms after which a build without a lease counts as abandoned
-- Returns {'drop'}, also for one whose deletion was interrupted, or {'keep'}.
if redis.call('EXISTS', home .. 'dropped') == 1 then return {'drop'} end
if redis.call('GET', KEYS[1]) == gen or redis.call('EXISTS', meta) == 0 then return {'keep'} end
local now_ms, field, keep_ms = tonumber(ARGV[2]), 'replaced_ms', tonumber(ARGV[3])
if redis.call('HEXISTS', meta, 'building') == 1 then
  field, keep_ms = 'abandoned_ms', tonumber(ARGV[4])
  if redis.call('EXISTS', base .. 'rebuild') == 1 then
    redis.call('HDEL', meta, field)
    return {'keep'}
  end
end
local since_ms = redis.call('HGET', meta, field)
if not since_ms then -- seen for the first time; versions before this one noted no time either
  redis.call('HSET', meta, field, ARGV[2])
  since_ms = now_ms
end
if now_ms - since_ms < keep_ms then return {'keep'} end
redis.call('RENAME', meta, home .. 'dropped')
return {'drop'}
