-- Adds pending deltas of actions, treatments and channels to their records: see commit.lua. Parts are
-- summed first, and each group is changed once, for the window day of now: what has left a window in the
-- meantime is not added to it. A call does a bounded part of that: it makes one part of several, or changes
-- groups. What these leave are parts with `is_sum`: each has other groups, and only as many as one call changes.
-- ARGV: 1 generation, 2 bytes of parts to sum, 3 maximum groups to change, 4 maximum groups of a grouping
-- Returns {'ok', events still pending, grouping code, interactions counted as OTHER, ...}, or
-- {'damaged', reason}: it failed half-way, or its parts are lost, so the generation is not complete any more.
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
local PARTS_MAX = 64
local packed = redis.call('LRANGE', pending_key, 0, PARTS_MAX - 1)
if #packed == 0 then
  damage('pending deltas are lost')
  drop_pending()
  return {'damaged', 'pending deltas are lost'}
end

-- 1. The parts of this call.
local parts, bytes = {cmsgpack.unpack(packed[1])}, #packed[1]
while not parts[1].is_sum and packed[#parts + 1] and bytes + #packed[#parts + 1] <= tonumber(ARGV[2]) do
  bytes = bytes + #packed[#parts + 1]
  parts[#parts + 1] = cmsgpack.unpack(packed[#parts + 1])
end
local is_last = redis.call('LLEN', pending_key) == #parts

-- 2. Sums by day * TYPES_MAX + type. Parts of one worker have mostly the same types.
local TYPES_MAX = 1024
local types, index_of, sums, orders, n = {}, {}, {a = {}, t = {}, c = {}}, {a = {}, t = {}, c = {}}, 0
for _, part in ipairs(parts) do
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

-- 3. The parts that take their place, in order. Where others follow, their sum is one of them.
local groups_max_now, sums_of = tonumber(ARGV[3]), {}
local merges = #parts > 1 and not is_last
local left = 0
for _, kind in ipairs({'a', 't', 'c'}) do
  for _, id in ipairs(orders[kind]) do
    if left == 0 then
      sums_of[#sums_of + 1] = {types = types, n = 0, is_sum = not merges, a = {}, t = {}, c = {}}
      left = merges and math.huge or groups_max_now
    end
    local list = sums_of[#sums_of][kind]
    list[#list + 1], list[#list + 2], left = id, deltas_of(sums[kind][id]), left - 1
  end
end
sums_of[#sums_of].n = n -- no event is folded before all its groups are
local now = not merges and table.remove(sums_of, 1)
local keys = {meta}
if now then
  local days = {}
  for _, kind in ipairs({'a', 't', 'c'}) do
    for i = 1, #now[kind], 2 do keys[#keys + 1] = home .. kind .. ':' .. now[kind][i] end
    add_days(days, now[kind], 2)
  end
  for _, key in ipairs(index_keys({'a', 't', 'c'}, days)) do keys[#keys + 1] = key end
end
touch(keys)

-- 4. Writes.
local failure = write_or_damage(function()
  if now then
    codes = codes_of(types, state[2])
    count_groups(now)
    write_ranks_and_dues()
    redis.call('HSET', meta, 'stamp', new_stamp('f' .. waiting))
  end
  redis.call('LTRIM', pending_key, #parts, -1)
  for i = #sums_of, 1, -1 do redis.call('LPUSH', pending_key, cmsgpack.pack(sums_of[i])) end
  if #sums_of == 0 and is_last then
    waiting = 0
    redis.call('HDEL', meta, 'pending')
  elseif #sums_of == 0 then
    waiting = redis.call('HINCRBY', meta, 'pending', string.format('%d', -n)) -- Redis 7 refuses -0
  end
end)
if failure then
  drop_pending()
  return {'damaged', failure}
end
local answer = {'ok', waiting}
add_overflow(answer)
return answer
