-- Adds tenants to the set of those that have counters, up to the maximum.
-- KEYS: 1 the set. ARGV: 1 maximum tenants, 2.. tenants. Returns the refused tenants.
local refused, size = {}, redis.call('SCARD', KEYS[1])
for i = 2, #ARGV do
  if redis.call('SISMEMBER', KEYS[1], ARGV[i]) == 0 then
    if size < tonumber(ARGV[1]) then
      size = size + redis.call('SADD', KEYS[1], ARGV[i])
    else
      refused[#refused + 1] = ARGV[i]
    end
  end
end
return refused
