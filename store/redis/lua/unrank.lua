-- Drops ranks of customers that nobody asks for: see rank.lua. ARGV: 1 generation, 2 codes of periods.
-- Returns {codes that are dropped}.
local state = redis.call('HMGET', meta, 'day', 'unranked', 'ranking')
if redis.call('GET', KEYS[1]) ~= gen or not state[1] then return {''} end
local unranked = state[2] or ''
local _, dropped = split_codes(ARGV[2], unranked)
local _, ranking = split_codes(state[3] or '', dropped)
drop_ranks(dropped, tonumber(state[1]))
redis.call('HSET', meta, 'unranked', unranked .. dropped)
if ranking ~= '' then
  redis.call('HSET', meta, 'ranking', ranking)
else
  redis.call('HDEL', meta, 'ranking', 'ranked_to')
end
return {dropped}
