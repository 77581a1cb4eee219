-- Answers one question from the active generation: one call, one snapshot.
-- ARGV: 1 grouping code, 2 period code (d, w, m, a; x = an exact window, which no period has),
--       3 the reader's day, 4 time zone, 5 offset, 6 limit, 7 earliest day of the window ('' = none),
--       8 the shards that the reader expects at shard 0: 1, or number@generation; '' = another shard
-- Returns {'ok', catalog version, events that are pending (see fold.lua), msgpack types, groups, {id, ...},
-- {counts, ...}, {unique, ...}, 1 if the rank was there, else 0}
-- where counts are msgpack (flat {code, count, ...}, or the record's `s` with all its windows),
-- {'sharded', shards, generation} if the reader expects others, or {reason}.
-- An exact window is summed for every group that can be in it, and blocks Redis meanwhile. So is a period
-- of customers without a rank, for all customers: `not_ranked` if there are too many. A group
-- costs about as much as GROUP_TILES tiles, and SUMMED_TILES_MAX tiles take 5 to 8 ms: 200 groups
-- where most tiles are read (19 days), 400 for 2 days.
local GROUP_TILES, SUMMED_TILES_MAX = 8, 4000
-- Customers that are summed without a rank, which takes 2 to 4 ms: each question does it, until there is one.
local UNRANKED_MAX = 200
local base = string.sub(KEYS[1], 1, -7)
local active = redis.call('GET', KEYS[1])
if not active then return {'no_generation'} end
local home = base .. active .. ':'

-- On the node that a slot comes to, a rank that is not there yet would be an empty page. A record that is
-- not there is a lost one.
together(home .. 'meta')
local kind, period, today = ARGV[1], ARGV[2], tonumber(ARGV[3])
local complete, day, rolled, timezone, types, pending, shards, unranked, ranking, over, over_actions, over_offers =
  unpack(redis.call(
    'HMGET', home .. 'meta', 'complete', 'day', 'rolled', 'timezone', 'types', 'pending', 'shards', 'unranked',
    'ranking', 'over:' .. kind, 'over:a', 'over:o'))
local offset, limit, from = tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7])
if ARGV[8] ~= '' and ARGV[8] ~= (shards and shards .. '@' .. active or '1') then
  return {'sharded', shards or '1', active}
end
if complete ~= '1' then return {'not_complete'} end
-- Some groups are counted as one. If some offers are, or a customer has too many, the distinct offers of
-- customers are unknown.
if over or kind == 'u' and (over_actions or over_offers) then return {'capped'} end
if timezone ~= ARGV[4] then return {'other_timezone'} end
if period ~= 'a' and day ~= ARGV[3] then return {'other_day'} end
if period ~= 'a' and period ~= 'd' and rolled ~= day then return {'rolling'} end

-- The period whose rank lists the groups, and whether there is that rank: see rank.lua.
local needed = period ~= 'x' and period or today - from + 1 < 7 and 'w' or 'm'
local is_ranked = kind ~= 'u' or ranked_of((unranked or '') .. (ranking or ''))[needed]

local function rank_of(name) return home .. 'r:' .. kind .. ':' .. name end
local function key_of(id) return home .. kind .. ':' .. id end

-- Adds (sign 1) or subtracts (-1) the counts of the days first..last in a packed tile, which may be
-- missing. Returns the signed number of interactions.
local function count_days(of_code, block, packed, first, last, sign)
  local tile, total = packed and cmsgpack.unpack(packed) or {}, 0
  for i = 1, #tile, 2 do
    local day, code = day_of(block, tile[i]), code_of(tile[i])
    if day >= first and day <= last then
      total = total + sign * tile[i + 1]
      of_code[code] = (of_code[code] or 0) + sign * tile[i + 1]
    end
  end
  return total
end

local function pack_counts(of_code)
  local flat = {}
  for code, n in pairs(of_code) do
    if n > 0 then
      flat[#flat + 1] = code
      flat[#flat + 1] = n
    end
  end
  return cmsgpack.pack(flat)
end

-- Sums the window from..today of each group that can be in it: the window of the nearest period,
-- corrected by the tiles of the days between. Returns the groups with interactions in the order of
-- a response: {{id, total, code -> count}, ...}; or nil and the reason why not.
local function summed()
  local days = today - from + 1
  local nearest, sign, first, last = nil, 1, from, today
  if days > 3 and days < 7 then
    nearest, sign, first, last = WEEKLY, -1, today - 6, from - 1
  elseif days >= 7 and days < 20 then
    nearest, first, last = WEEKLY, from, today - 7
  elseif days >= 20 then
    nearest, sign, first, last = MONTHLY, -1, today - TILE_DAYS + 1, from - 1
  end
  local rank = rank_of(is_ranked and needed or 'a')
  together(rank)
  local tiles_each = GROUP_TILES + last - first + 1
  local size = redis.call('ZCARD', rank)
  if not is_ranked and size > UNRANKED_MAX then return nil, 'not_ranked' end
  if size * tiles_each > SUMMED_TILES_MAX then return nil, 'too_many_groups' end
  local ask = {'HMGET', '', 's'}
  for block = block_of(first), block_of(last) do ask[#ask + 1] = block end
  local found = {}
  for _, id in ipairs(redis.call('ZRANGE', rank, 0, -1)) do
    ask[2] = key_of(id)
    local got = redis.call(unpack(ask))
    if not got[1] then return nil, 'lost_record' end
    local total, of_code = 0, {}
    if nearest then
      local s = cmsgpack.unpack(got[1])
      total = total_of(s, nearest)
      for i = FIRST, #s, STEP do of_code[s[i]] = s[i + nearest] end
    end
    for i = 2, #got do
      total = total + count_days(of_code, ask[i + 2], got[i], first, last, sign)
    end
    if total > 0 then found[#found + 1] = {id, total, of_code} end
  end
  table.sort(found, function(a, b)
    if a[2] ~= b[2] then return a[2] > b[2] end
    return is_before(a[1], b[1])
  end)
  return found
end

-- Returns the number of distinct offers of a customer in from..today, and the value of the field
-- `wanted` of its record.
local function uniques_of(id, wanted)
  local fields = redis.call('HGETALL', key_of(id))
  local value, seen, n = false, {}, 0
  for i = 1, #fields, 2 do
    local name = fields[i]
    local first = string.byte(name)
    if name == wanted then
      value = fields[i + 1]
    elseif first == 45 or first == 112 then -- '-', 'p'
      local day, before = tonumber(fields[i + 1]), first == 45 and 1 or string.find(name, ':', 1, true)
      local offer = string.sub(name, before + 1)
      if (not from or (day >= from and day <= today)) and not seen[offer] then
        seen[offer] = true
        n = n + 1
      end
    end
  end
  return n, value
end

local ids, counts, uniques, groups = {}, {}, {}, 0
if period == 'x' or not is_ranked then
  local found, reason = summed()
  if not found then return {reason} end
  groups = #found
  for index = offset + 1, math.min(offset + limit, groups) do
    local group = found[index]
    ids[#ids + 1] = group[1]
    if period == 'x' then
      counts[#counts + 1] = pack_counts(group[3])
      if kind == 'u' then uniques[#uniques + 1] = uniques_of(group[1]) end
    end
  end
else
  local rank = rank_of(period == 'd' and 'd' .. ARGV[3] or period)
  together(rank)
  groups = redis.call('ZCARD', rank)
  ids = redis.call('ZRANGE', rank, ARGV[5], string.format('%d', offset + limit - 1))
end
if period ~= 'x' then
  local block = block_of(today)
  local field = period == 'd' and tostring(block) or 's'
  for i, id in ipairs(ids) do
    if kind == 'u' then
      uniques[i], counts[i] = uniques_of(id, field)
    else
      counts[i] = redis.call('HGET', key_of(id), field)
    end
    -- The rank has the group, and its record is gone: evicted, say.
    if not counts[i] then return {'lost_record'} end
    if period == 'd' then
      local of_code = {}
      count_days(of_code, block, counts[i], today, today, 1)
      counts[i] = pack_counts(of_code)
    end
  end
end
together(base .. 'catalog')
local version = redis.call('GET', base .. 'catalog')
if kind == 'u' then pending = '0' end
return {'ok', version or '0', pending or '0', types or '', groups, ids, counts, uniques, is_ranked and 1 or 0}
