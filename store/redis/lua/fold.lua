-- Adds pending deltas of actions, treatments and channels to their records: see commit.lua. Parts are
-- summed first, and each group is changed once, for the window day of now: what has left a window in the
-- meantime is not added to it.
-- ARGV: 1 generation, 2 maximum parts to sum, 3 maximum groups to change, 4 maximum groups of a grouping
-- Returns {'ok', events still pending, grouping code, interactions counted as OTHER, ...}. What the maximum
-- leaves stays as the first part, a sum. {'damaged', reason}: it failed half-way, or its parts are lost, so
-- the generation is not complete any more.
local state = redis.call('HMGET', meta, 'day', 'types', 'pending')
local waiting = tonumber(state[3] or 0)
if not state[1] or waiting == 0 then return {'ok', 0} end
today, groups_max = tonumber(state[1]), tonumber(ARGV[4])
local pending_key = home .. 'pending'
touch({meta, pending_key})
local function drop_pending()
  redis.call('DEL', pending_key)
  redis.call('HDEL', meta, 'pending')
end
local parts = redis.call('LRANGE', pending_key, 0, ARGV[2] - 1)
if #parts == 0 then
  damage('pending deltas are lost')
  drop_pending()
  return {'damaged', 'pending deltas are lost'}
end
local is_last = redis.call('LLEN', pending_key) == #parts

-- 1. Sums by day * TYPES_MAX + type. Parts of one worker have mostly the same types.
local TYPES_MAX = 1024
local types, index_of, sums, orders, n = {}, {}, {a = {}, t = {}, c = {}}, {a = {}, t = {}, c = {}}, 0
for i = 1, #parts do
  local part = cmsgpack.unpack(parts[i])
  n = n + part.n
  local to = {} -- type of the part, from 0 -> type of the sum, from 0
  for j, key in ipairs(part.types) do
    if not index_of[key] then
      index_of[key] = #types
      types[#types + 1] = key
    end
    to[j - 1] = index_of[key]
  end
  for kind, of_kind in pairs(sums) do
    local list, order = part[kind], orders[kind]
    for j = 1, #list, 2 do
      local id, deltas = list[j], list[j + 1]
      local sum = of_kind[id]
      if not sum then
        sum = {}
        of_kind[id], order[#order + 1] = sum, id
      end
      for d = 1, #deltas, 3 do
        local at = deltas[d] * TYPES_MAX + to[deltas[d + 1]]
        sum[at] = (sum[at] or 0) + deltas[d + 2]
      end
    end
  end
end
local function deltas_of(sum)
  local ats, deltas = {}, {}
  for at in pairs(sum) do ats[#ats + 1] = at end
  table.sort(ats)
  for i, at in ipairs(ats) do
    deltas[i * 3 - 2], deltas[i * 3 - 1], deltas[i * 3] = math.floor(at / TYPES_MAX), at % TYPES_MAX, sum[at]
  end
  return deltas
end

-- 2. The groups that are changed now, and those that stay.
local now, rest, left = {}, {types = types, n = n}, tonumber(ARGV[3])
local keys, days, is_left = {}, {}, false
for _, kind in ipairs({'a', 't', 'c'}) do
  now[kind], rest[kind] = {}, {}
  for _, id in ipairs(orders[kind]) do
    local list = left > 0 and now[kind] or rest[kind]
    if left > 0 then keys[#keys + 1] = home .. kind .. ':' .. id else is_left = true end
    list[#list + 1], list[#list + 2] = id, deltas_of(sums[kind][id])
    left = left - 1
  end
  add_days(days, now[kind], 2)
end
for _, key in ipairs(index_keys({'a', 't', 'c'}, days)) do keys[#keys + 1] = key end
touch(keys)

-- 3. Writes.
local failure = write_or_damage(function()
  codes = codes_of(types, state[2])
  count_groups(now)
  write_ranks_and_dues()
  redis.call('LTRIM', pending_key, #parts, -1)
  redis.call('HSET', meta, 'stamp', new_stamp('f' .. waiting))
  if is_left then
    redis.call('LPUSH', pending_key, cmsgpack.pack(rest))
  elseif is_last then
    waiting = 0
    redis.call('HDEL', meta, 'pending')
  else
    waiting = redis.call('HINCRBY', meta, 'pending', -n)
  end
end)
if failure then
  drop_pending()
  return {'damaged', failure}
end
local answer = {'ok', waiting}
add_overflow(answer)
return answer
