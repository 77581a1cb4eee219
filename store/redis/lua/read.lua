-- Answers one question from the active generation: one call, one snapshot.
-- ARGV: 1 grouping code, 2 period code (d, w, m, a; x = an exact window, which no period has),
--       3 the reader's day, 4 time zone, 5 offset, 6 limit, 7 earliest day of the window ('' = none),
--       8 the shards that the reader expects at shard 0: 1, or number@generation; '' = another shard
--       9 version of the answer that the reader has; '' = none
-- Returns {'ok', version, events that are pending (see fold.lua), 1 if the rank was there, else 0, catalog
-- version, msgpack types, groups, msgpack {id, ...}, msgpack {counts, ...}, msgpack {unique, ...}}
-- where counts are flat {code, count, ...}, or the record's `s` with all its windows; {'same', version,
-- pending, rank was there} if the reader has the answer; {'sharded', shards, generation} if the reader
-- expects others; or {reason}.
-- The version has all that the answer depends on: see ADR 0026. '' = there is none yet.
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
local complete, day, rolled, timezone, types, pending, shards, unranked, ranking, over, over_actions, over_offers,
  events, stamp = unpack(redis.call(
    'HMGET', home .. 'meta', 'complete', 'day', 'rolled', 'timezone', 'types', 'pending', 'shards', 'unranked',
    'ranking', 'over:' .. kind, 'over:a', 'over:o', 'events', kind == 'u' and 'stamp_u' or 'stamp'))
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

-- 1. What the answer depends on. Another version of the worker sets no stamp; the number of events that the
-- answer shows tells its commits and folds apart.
together(base .. 'catalog')
local catalog = redis.call('GET', base .. 'catalog') or '0'
pending = kind ~= 'u' and pending or '0'
local ranked_flag = is_ranked and 1 or 0
local version = stamp and table.concat({
  active, day, rolled, stamp, events and string.format('%.0f', events - pending) or '', unranked or '',
  ranking or '', catalog}, ',') or ''
if stamp and version == ARGV[9] then return {'same', version, pending, ranked_flag} end

-- 2. The groups and their counts.
local function rank_of(name) return home .. 'r:' .. kind .. ':' .. name end
local function key_of(id) return home .. kind .. ':' .. id end

-- Returns the counts of one day in a packed tile, flat {code, count, ...}.
local function counts_of_day(packed, day)
  local tile, index, flat, n = cmsgpack.unpack(packed), day % BLOCK_DAYS, {}, 0
  for i = 1, #tile, 2 do
    if tile[i] % BLOCK_DAYS == index then
      flat[n + 1], flat[n + 2], n = code_of(tile[i]), tile[i + 1], n + 2
    end
  end
  return flat
end

-- Returns {code and day of a tile -> code, or false if the day's index in its block is not in first..last}.
local function codes_in(first, last)
  return setmetatable({}, {__index = function(codes, code_and_day)
    local index = code_and_day % BLOCK_DAYS
    local code = index >= first and index <= last and (code_and_day - index) / BLOCK_DAYS
    codes[code_and_day] = code
    return code
  end})
end

-- Adds the counts of a tile to `sums`, code -> count, given the codes of its days.
local function add_days(sums, tile, codes)
  for i = 1, #tile, 2 do
    local code = codes[tile[i]]
    if code then sums[code] = sums[code] + tile[i + 1] end
  end
end

-- Returns the msgpack array of values that are msgpack already.
local function array_of(packed)
  local n = #packed
  return string.char(220, math.floor(n / 256), n % 256) .. table.concat(packed)
end

-- Sums the window from..today of each group that can be in it: the window of the nearest period,
-- corrected by the tiles of the days between. Returns the groups with interactions in the order of
-- a response: {{id, total, counts}, ...}; or nil and the reason why not.
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
  local ask, codes = {'HMGET', '', 's'}, {}
  for block = block_of(first), block_of(last) do
    ask[#ask + 1] = string.format('%d', block)
    codes[#ask - 2] = codes_in(first - block * BLOCK_DAYS, last - block * BLOCK_DAYS)
  end
  local found, sums = {}, {}
  for _, id in ipairs(redis.call('ZRANGE', rank, 0, -1)) do
    ask[2] = key_of(id)
    local got = redis.call(unpack(ask))
    if not got[1] then return nil, 'lost_record' end
    local s, total, flat, n_flat = cmsgpack.unpack(got[1]), 0, {}, 0
    for i = FIRST, #s, STEP do sums[s[i]] = 0 end
    for i = 2, #got do
      if got[i] then add_days(sums, cmsgpack.unpack(got[i]), codes[i]) end
    end
    for i = FIRST, #s, STEP do
      local code = s[i]
      local n = (nearest and s[i + nearest] or 0) + sign * sums[code]
      if n > 0 then
        total = total + n
        flat[n_flat + 1], flat[n_flat + 2], n_flat = code, n, n_flat + 2
      end
    end
    if total > 0 then found[#found + 1] = {id, total, flat} end
  end
  table.sort(found, function(a, b)
    if a[2] ~= b[2] then return a[2] > b[2] end
    return is_before(a[1], b[1])
  end)
  return found
end

-- Returns the number of distinct offers of a customer in from..today, and the value of the field
-- `wanted` of its record.
local byte = string.byte
local function uniques_of(id, wanted)
  local fields = redis.call('HGETALL', key_of(id))
  local value, n, has_ahead = false, 0, false
  for i = 1, #fields, 2 do
    local name = fields[i]
    local first = byte(name)
    if first == 45 then -- '-': each offer has one such field
      if from then
        local day = tonumber(fields[i + 1])
        if day >= from and day <= today then n = n + 1 end
      else
        n = n + 1
      end
    elseif first == 112 then -- 'p'
      has_ahead = true
    elseif name == wanted then
      value = fields[i + 1]
    end
  end
  if has_ahead then -- of these an offer may have several, besides the other one
    local seen = {}
    n = 0
    for i = 1, #fields, 2 do
      local offer = string.match(fields[i], '^-(.+)$') or string.match(fields[i], '^p%d+:(.+)$')
      local day = offer and not seen[offer] and tonumber(fields[i + 1])
      if day and (not from or (day >= from and day <= today)) then
        seen[offer] = true
        n = n + 1
      end
    end
  end
  return n, value
end

-- Returns the same for the window of a period, from what the record keeps, if it does.
local function kept_uniques(id, wanted)
  local got = redis.call('HMGET', key_of(id), wanted, 'q')
  if got[2] and got[2] ~= '' then
    local weekly, monthly, alltime, on, daily = struct.unpack(Q_FORMAT, got[2])
    if period == 'a' then return alltime, got[1] end
    if period == 'm' then return monthly, got[1] end
    if period == 'w' then return weekly, got[1] end
    if on == today then return daily, got[1] end
  end
  return uniques_of(id, wanted)
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
      counts[#counts + 1] = cmsgpack.pack(group[3])
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
      uniques[i], counts[i] = kept_uniques(id, field)
    else
      counts[i] = redis.call('HGET', key_of(id), field)
    end
    -- The rank has the group, and its record is gone: evicted, say.
    if not counts[i] then return {'lost_record'} end
    if period == 'd' then counts[i] = cmsgpack.pack(counts_of_day(counts[i], today)) end
  end
end
return {
  'ok', version, pending, ranked_flag, catalog, types or '', groups, cmsgpack.pack(ids), array_of(counts),
  cmsgpack.pack(uniques)}
