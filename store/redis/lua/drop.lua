-- Deletes a bounded number of keys of a generation that is not active. Its meta is renamed first: from
-- then on nothing can be committed to it, and no rollback activates what is half deleted.
-- ARGV: 1 generation, 2 maximum keys; 0: rename only. Returns {1 if keys may be left else 0, keys deleted}.
if redis.call('GET', KEYS[1]) == gen then return {0, 0} end
local dropped = home .. 'dropped'
if redis.call('EXISTS', meta) == 1 then redis.call('RENAME', meta, dropped) end
local left = tonumber(ARGV[2])
if left == 0 then return {1, 0} end
local max_keys = left
for _, kind in ipairs(KINDS) do
  local rank = rank_of(kind, 'a')
  local ids = redis.call('ZRANGE', rank, 0, left - 1)
  if #ids > 0 then
    for _, id in ipairs(ids) do redis.call('UNLINK', home .. kind .. ':' .. id) end
    redis.call('ZREM', rank, unpack(ids))
    left = left - #ids
  end
  if left <= 0 then return {1, max_keys} end
end
local fields = redis.call('HGETALL', dropped)
local first, day = 0, 0 -- range of the days that have keys: due sets and daily ranks
for i = 1, #fields, 2 do
  if fields[i] == 'day' then day = tonumber(fields[i + 1]) end
  if fields[i] == 'rolled' then first = tonumber(fields[i + 1]) end
  local slot = string.match(fields[i], '^[do]:(-?%d+)$')
  if slot then redis.call('UNLINK', home .. 'ids:' .. slot, home .. 'own:' .. slot) end
end
for _, kind in ipairs(KINDS) do redis.call('UNLINK', rank_of(kind, 'w'), rank_of(kind, 'm')) end
for d = math.min(first, day), day + 2 * TILE_DAYS do
  redis.call('UNLINK', home .. 'due:' .. d)
  for _, kind in ipairs(KINDS) do redis.call('UNLINK', rank_of(kind, 'd' .. d)) end
end
redis.call('UNLINK', home .. 'offers', home .. 'pending', dropped)
if string.find(base, '}:%d+:$') then redis.call('UNLINK', base .. 'last') end -- a shard other than shard 0
return {0, max_keys - left}
