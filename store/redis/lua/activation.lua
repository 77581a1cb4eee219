-- Notes that another generation of a tenant was activated, by the clock of Redis, and forgets old notes.
-- KEYS: 1 sorted set. ARGV: 1 tenant, 2 ms for which a note is kept. Returns {time in ms}.
local time = redis.call('TIME')
local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', string.format('%.0f', now_ms - ARGV[2]))
redis.call('ZADD', KEYS[1], string.format('%.0f', now_ms), ARGV[1])
return {now_ms}
