-- The lease of a rebuild: at most one rebuild of a tenant runs at a time.
-- A lease that has ended is kept again, if nobody else has it: Redis was away for longer than it lasts, and
-- a build without one is deleted after a while.
-- ARGV: 1 'take' | 'keep' | 'free', 2 token, 3 lease time in ms, 4 description of the holder
-- Returns {'ok'}, or {'held', description of the holder, remaining ms} if another token has it.
local lease = base .. 'rebuild'
local holder = redis.call('HGET', lease, 'token')
if holder and holder ~= ARGV[2] then
  return {'held', redis.call('HGET', lease, 'holder') or '', redis.call('PTTL', lease)}
end
if ARGV[1] == 'free' then
  redis.call('DEL', lease)
else
  redis.call('HSET', lease, 'token', ARGV[2], 'holder', ARGV[4])
  redis.call('PEXPIRE', lease, ARGV[3])
end
return {'ok'}
