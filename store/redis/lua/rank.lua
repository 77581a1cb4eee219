-- Builds ranks of customers that are asked for, a bounded part per call. Three fields of meta are the state:
--   unranked   codes of the periods (d, w, m) that commits do not rank; absent = none
--   ranking    codes of the periods that are being built: commits rank them, reads do not use them yet
--   ranked_to  how far the building is: score and id of a customer in the rank of all time; absent = at the end
-- Customers are taken from the end of the rank of all time, the fewest interactions first. A commit makes a
-- total higher only, so a customer that it moves stays in front of this place, or is taken twice.
-- Any worker may call this at any time; each call continues where the last one stopped.
-- ARGV: 1 generation, 2 codes of the periods that are wanted, 3 maximum customers of this call
-- Returns {'ok', codes that are not ranked yet, customers that were taken}, or {'fenced'}: the generation is
-- not the active one.
local FIELDS_MAX = 2000 -- of records that are read whole
local state = redis.call('HMGET', meta, 'day', 'unranked', 'ranking', 'ranked_to')
if redis.call('GET', KEYS[1]) ~= gen or not state[1] then return {'fenced'} end
local today, unranked, ranking, ranked_to = tonumber(state[1]), state[2] or '', state[3] or '', state[4]

-- 1. Begin, if nothing is being built.
if ranking == '' then
  ranking, unranked = split_codes(unranked, ARGV[2])
  if ranking == '' then return {'ok', '', 0} end
  touch({meta})
  drop_ranks(ranking, today)
  redis.call('HSET', meta, 'unranked', unranked, 'ranking', ranking)
end

-- 2. Read the next customers.
local all = rank_of('u', 'a')
together(all)

-- Returns the number of customers before the one at `ranked_to`, where it is or was.
local function position_of(place)
  local score, id = string.match(place, '^(%S+) (.*)$')
  score = tonumber(score)
  local low, high = 0, redis.call('ZCARD', all)
  while low < high do
    local middle = math.floor((low + high) / 2)
    local found = redis.call('ZRANGE', all, middle, middle, 'WITHSCORES')
    local other = tonumber(found[2])
    if other < score or other == score and is_before(found[1], id) then low = middle + 1 else high = middle end
  end
  return low
end

local last = ranked_to and position_of(ranked_to) or redis.call('ZCARD', all)
local first = math.max(0, last - tonumber(ARGV[3]))
local members = last > 0 and redis.call('ZRANGE', all, first, last - 1, 'WITHSCORES') or {}
local keys = {meta}
for i = 1, #members, 2 do keys[#keys + 1] = home .. 'u:' .. members[i] end
touch(keys)

-- Adds the totals of today and of later days to `totals`, by period code. Returns the number of fields read.
local function add_days(key, totals)
  local fields = redis.call('HGETALL', key)
  for i = 1, #fields, 2 do
    local block = tonumber(fields[i]) -- nil for windows; for an offer nil, or negative
    if block and block >= block_of(today) then
      local tile = cmsgpack.unpack(fields[i + 1])
      for j = 1, #tile, 2 do
        local day = day_of(block, tile[j])
        if day >= today then totals['d' .. day] = (totals['d' .. day] or 0) + tile[j + 1] end
      end
    end
  end
  return #fields / 2
end

local function builds(code) return string.find(ranking, code, 1, true) end
local daily, weekly, monthly = builds('d'), builds('w'), builds('m')
local ranks, taken, fields = {}, 0, 0
for i = #members - 1, 1, -2 do
  if fields > FIELDS_MAX then break end
  local id, score = members[i], members[i + 1]
  local key = home .. 'u:' .. id
  local packed, totals = redis.call('HGET', key, 's'), {}
  if packed then -- else: a lost record, which a read notices
    local s = cmsgpack.unpack(packed)
    if weekly then totals.w = total_of(s, WEEKLY) end
    if monthly then totals.m = total_of(s, MONTHLY) end
    -- An interaction today, or later, is due to leave the week within 7 days, or to enter it.
    if daily and s[1] > 0 and s[1] <= today + 7 then fields = fields + add_days(key, totals) end
  end
  for period, total in pairs(totals) do
    if total > 0 then
      local list = ranks[period] or {}
      ranks[period] = list
      list[#list + 1], list[#list + 2] = string.format('%d', -total), id
    end
  end
  taken, ranked_to = taken + 1, score .. ' ' .. id
end

-- 3. Write their ranks, and how far the building is.
keys = {meta}
for period in pairs(ranks) do keys[#keys + 1] = rank_of('u', period) end
touch(keys)
for period, list in pairs(ranks) do
  local key = rank_of('u', period)
  in_parts(list, function(...) redis.call('ZADD', key, ...) end)
end
if taken * 2 == #members and first == 0 then
  redis.call('HDEL', meta, 'ranking', 'ranked_to')
  ranking = ''
else
  redis.call('HSET', meta, 'ranked_to', ranked_to)
end
return {'ok', ranking .. split_codes(unranked, ARGV[2]), taken}
