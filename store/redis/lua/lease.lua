-- The lease of a rebuild: at most one rebuild of a tenant runs at a time.
-- ARGV: 1 'take' | 'keep' | 'free', 2 token, 3 lease time in ms, 4 description of the holder
-- Returns {'ok'}, or {'held', description of the holder, remaining ms} if another token has it.
local lease = base .. 'rebuild'
local holder = redis.call('HGET', lease, 'token')
if holder and holder ~= ARGV[2] then
  return {'held', redis.call('HGET', lease, 'holder') or '', redis.call('PTTL', lease)}
end
if ARGV[1] == 'free' then
  redis.call('DEL', lease)
elseif holder or ARGV[1] == 'take' then
  redis.call('HSET', lease, 'token', ARGV[2], 'holder', ARGV[4])
  redis.call('PEXPIRE', lease, ARGV[3])
else
  return {'held', '', 0}
end
return {'ok'}
