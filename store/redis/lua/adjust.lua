-- Corrects groups of the active generation by what an audit found. The corrections are differences, so
-- events that were counted since the audit stay counted.
-- ARGV: 1 generation, 2 window day, 3 msgpack {kind, types, groups}:
--         kind    grouping code
--         types   outcome type keys; the corrections refer to them by index from 0
--         groups  flat {id, alltime, tiles, offers, ...}
--           alltime  flat {type, n, ...}: the difference of the count of all time
--           tiles    flat {day, type, n, ...}: the difference of a day's count
--           offers   flat {offer id, day after the window day or 0, last day found, last day wanted,
--                    ...}, -1 = none. A later day is set unless the record has it by now; an
--                    earlier one, or none, only if the last day is still the one found
--       4 '' or '1': the one record cannot be read; it is deleted first, and the corrections are its
--         whole counts. 5 must then be its `s` ('' = none) when it was audited: each event that is
--         counted changes it
-- Returns {'ok'}, {'fenced', active generation}, {'moved'}: the record is another one by now, or
-- {'damaged', reason}: it failed half-way, so the generation is not complete any more.
local ACTIONS_MAX = 10000 -- about 3 ms
local active = redis.call('GET', KEYS[1])
local state = redis.call('HMGET', meta, 'day', 'rolled', 'types', 'pending', 'unranked')
if active ~= gen or state[1] ~= ARGV[2] or state[2] ~= ARGV[2] then
  return {'fenced', active or ''}
end
local fix = cmsgpack.unpack(ARGV[3])
local kind = fix.kind
if ARGV[4] == '1' then
  local s = redis.call('HGET', home .. kind .. ':' .. fix.groups[1], 's') or ''
  if s ~= ARGV[5] then return {'moved'} end
end
local today = tonumber(state[1])
ranked_in.u = ranked_of(state[5])

local codes = codes_of(fix.types, state[3])

-- Returns the number of an offer; a new one gets the next, as in commit.lua.
local function number_of(offer)
  local number = redis.call('HGET', home .. 'offers', offer)
  if not number then
    number = redis.call('HLEN', home .. 'offers') + 1
    redis.call('HSET', home .. 'offers', offer, number)
  end
  return string.format('%d', number)
end

-- Adds n to the value of `name` in a flat list {name, value, ...} of a tile; 0 is removed.
local function add_to_tile(tile, name, n)
  for i = 1, #tile, 2 do
    if tile[i] == name then
      tile[i + 1] = tile[i + 1] + n
      if tile[i + 1] == 0 then
        table.remove(tile, i + 1)
        table.remove(tile, i)
      end
      return
    end
  end
  local m = #tile
  tile[m + 1], tile[m + 2] = name, n
end

local function correct_tiles(key, tiles)
  for i = 1, #tiles, 3 do
    local day, code, n = tiles[i], codes[tiles[i + 1]], tiles[i + 2]
    local block = block_of(day)
    local packed = redis.call('HGET', key, block)
    local tile = packed and cmsgpack.unpack(packed) or {}
    add_to_tile(tile, code * BLOCK_DAYS + day % BLOCK_DAYS, n)
    if #tile == 0 then
      redis.call('HDEL', key, block)
    else
      redis.call('HSET', key, block, cmsgpack.pack(tile))
    end
  end
end

local function correct_offers(key, offers)
  for i = 1, #offers, 4 do
    local day, found, wanted = offers[i + 1], offers[i + 2], offers[i + 3]
    local name = (day > 0 and 'p' .. day .. ':' or '-') .. number_of(offers[i])
    local now = tonumber(redis.call('HGET', key, name) or '-1')
    if wanted > found and wanted > now then
      redis.call('HSET', key, name, wanted)
    elseif wanted < found and now == found then
      if wanted < 0 then redis.call('HDEL', key, name) else redis.call('HSET', key, name, wanted) end
    end
  end
end

local function total_of_day(key, day)
  local packed, n = redis.call('HGET', key, block_of(day)), 0
  local tile = packed and cmsgpack.unpack(packed) or {}
  for i = 1, #tile, 2 do
    if tile[i] % BLOCK_DAYS == day % BLOCK_DAYS then n = n + tile[i + 1] end
  end
  return n
end

local function correct(id, alltime, tiles, offers)
  local key = home .. kind .. ':' .. id
  if ARGV[4] == '1' then redis.call('DEL', key) end
  local packed = redis.call('HGET', key, 's')
  local s = packed and cmsgpack.unpack(packed) or {0}
  for i = 1, #alltime, 2 do add(s, codes[alltime[i]], 0, 0, alltime[i + 1]) end
  local kept = {s[1]}
  for i = FIRST, #s, STEP do
    if s[i + ALLTIME] ~= 0 then
      for j = i, i + STEP - 1 do kept[#kept + 1] = s[j] end
    end
  end
  if #kept < FIRST then
    redis.call('DEL', key)
    for _, period in ipairs({'a', 'm', 'w', 'd' .. today, 'd' .. today + 1}) do
      redis.call('ZREM', rank_of(kind, period), id)
    end
    for due = today + 1, today + TILE_DAYS + 1 do
      redis.call('SREM', home .. 'due:' .. due, kind .. ':' .. id)
    end
    return
  end
  redis.call('HSET', key, 's', cmsgpack.pack(kept))
  correct_tiles(key, tiles)
  correct_offers(key, offers)
  local weekly, monthly = refresh(kind, id, key, today)
  set_rank(kind, 'w', id, weekly)
  set_rank(kind, 'm', id, monthly)
  set_rank(kind, 'a', id, total_of(kept, ALLTIME))
  for day = today, today + 1 do set_rank(kind, 'd' .. day, id, total_of_day(key, day)) end
end

-- Each event has an action, so the number of events is the sum of the actions' totals, and of their deltas that
-- are pending: some are at most times while events flow.
local function correct_events()
  local rank, events = rank_of('a', 'a'), 0
  local waiting = tonumber(state[4] or 0)
  if waiting > ACTIONS_MAX or redis.call('ZCARD', rank) > ACTIONS_MAX then
    redis.call('HDEL', meta, 'events') -- unknown
    return
  end
  local scores = redis.call('ZRANGE', rank, 0, -1, 'WITHSCORES')
  for i = 2, #scores, 2 do events = events - tonumber(scores[i]) end
  for _, part in ipairs(waiting > 0 and redis.call('LRANGE', home .. 'pending', 0, -1) or {}) do
    local actions = cmsgpack.unpack(part).a
    for i = 2, #actions, 2 do
      for j = 3, #actions[i], 3 do events = events + actions[i][j] end
    end
  end
  redis.call('HSET', meta, 'events', string.format('%.0f', events))
end

local failure = write_or_damage(function()
  local stamp = new_stamp('a')
  redis.call('HSET', meta, 'stamp', stamp, 'stamp_u', stamp)
  -- A total that becomes lower may move a customer past where the building of ranks is: it begins again.
  if kind == 'u' then redis.call('HDEL', meta, 'ranked_to') end
  for i = 1, #fix.groups, 4 do
    correct(fix.groups[i], fix.groups[i + 1], fix.groups[i + 2], fix.groups[i + 3])
  end
  if kind == 'a' then correct_events() end
end)
if failure then return {'damaged', failure} end
return {'ok'}
