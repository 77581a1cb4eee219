-- Ends the commits to a shard, other than shard 0, of a generation that is not active any more; or
-- allows them again, before a rollback to it.
-- ARGV: 1 unused, 2 'retire' or 'restore'
-- Returns {number of the shard's generation or '', source, watermark that it has or has yet to reach, ...}
local retired = base .. 'retired'
local number = redis.call('GET', KEYS[1])
if ARGV[2] == 'restore' then
  number = redis.call('GET', retired) or number
  if number then redis.call('SET', KEYS[1], number) end
  redis.call('DEL', retired)
elseif number then
  redis.call('SET', retired, number)
  redis.call('DEL', KEYS[1])
else
  number = redis.call('GET', retired)
end
if not number then return {''} end
together(base .. number .. ':meta')
local answer = {number}
for source, offset in pairs(reach_of(redis.call('HGETALL', base .. number .. ':meta'))) do
  answer[#answer + 1] = source
  answer[#answer + 1] = string.format('%d', offset)
end
return answer
