-- Adds deltas to records. Included after common.lua and parts.lua by the scripts that count: commit and
-- fold.
-- They set these before they call the functions below:
-- window day; index of a type -> its code; maximum groups of a grouping; maximum offers of a customer
local today, codes, groups_max, offers_max

-- Redis writes a number that a script passes to it with "%.17g", which takes 0.3 us; most numbers of a
-- commit occur many times.
local texts = {}
local function text_of(n)
  local text = texts[n]
  if not text then
    text = string.format('%d', n)
    texts[n] = text
  end
  return text
end

-- Ranks are collected and written once per sorted set.
local ranks, dues = {a = {}, t = {}, c = {}, u = {}}, {}
local function rank(kind, period, id, total)
  local list = ranks[kind][period]
  if not list then
    list = {}
    ranks[kind][period] = list
  end
  local n = #list
  list[n + 1], list[n + 2] = text_of(-total), id
end

local function add_to_tile(tile, code_and_day, n)
  for i = 1, #tile, 2 do
    if tile[i] == code_and_day then
      tile[i + 1] = tile[i + 1] + n
      return
    end
  end
  local m = #tile
  tile[m + 1], tile[m + 2] = code_and_day, n
end

local function total_of_day(tile, day)
  local index, n = day % BLOCK_DAYS, 0
  for i = 1, #tile, 2 do
    if tile[i] % BLOCK_DAYS == index then n = n + tile[i + 1] end
  end
  return n
end

local number_of = {} -- offer -> its number
local function seen_field(offer, day)
  return (day > today and 'p' .. day .. ':' or '-') .. number_of[offer]
end

-- Interactions counted as OTHER by kind. 'o': times that an offer was not remembered.
local overflow = {}

-- Offers of a customer beyond the limit are remembered as one, which no offer has the number of. A read
-- of customers then answers `capped`: see `over:o` in meta.
local OTHER_OFFERS = '-0'

-- Returns {offer number -> true} of a customer's record, and how many there are.
local function offers_of(key)
  local known, n = {}, 0
  for _, name in ipairs(redis.call('HKEYS', key)) do
    local number = string.match(name, '^-(.+)$') or string.match(name, '^p%d+:(.+)$')
    if number and not known[number] then
      known[number] = true
      n = n + 1
    end
  end
  return known, n
end

-- Takes what the record of a customer has no room for out of `latest`, field -> day. `new` are the fields
-- that it does not have. A record that has been full has OTHER_OFFERS, so its fields are listed only once.
local function limit_offers(key, is_new, new, latest)
  if (is_new and 0 or redis.call('HLEN', key)) + #new <= offers_max then return end
  local known, n = {}, offers_max
  if redis.call('HEXISTS', key, OTHER_OFFERS) == 0 then known, n = offers_of(key) end
  for _, name in ipairs(new) do
    local number = string.match(name, '%d+$')
    if not known[number] then
      if n < offers_max then
        known[number] = true
        n = n + 1
      else
        latest[OTHER_OFFERS], latest[name] = latest[name], nil
        overflow.o = (overflow.o or 0) + 1
      end
    end
  end
end

-- Groups beyond the limit. A read of a grouping that has any answers `capped`: see `over:` in meta.
local OTHER, NONE = '__other__', {}
local sizes, others = {}, {a = {}, t = {}, c = {}, u = {}}
local function is_full(kind)
  local size = sizes[kind] or redis.call('ZCARD', rank_of(kind, 'a'))
  local full = size >= groups_max
  sizes[kind] = full and size or size + 1
  return full
end

-- Returns the field `q` of a customer after offers were seen, '' if they have to be counted, or nil if it
-- stays as it is. `latest` and `seen`: field of an offer -> the day now, and before. A record that is due but
-- not rolled yet gets the numbers of its windows from the roll, as all others of its windows.
local function uniques_after(packed, is_new, latest, seen)
  local weekly, monthly, alltime, on, daily = 0, 0, 0, today, 0
  if not is_new then
    if not packed or packed == '' then return nil end
    weekly, monthly, alltime, on, daily = struct.unpack(Q_FORMAT, packed)
    if on ~= today then daily = 0 end
  end
  for name, day in pairs(latest) do
    if string.byte(name) ~= 45 or name == OTHER_OFFERS then return '' end -- 45: '-'
    local before = seen[name]
    if before then
      before = tonumber(before)
    else
      alltime, before = alltime + 1, -TILE_DAYS
    end
    if day > today - 7 and before <= today - 7 then weekly = weekly + 1 end
    if day > today - TILE_DAYS and before <= today - TILE_DAYS then monthly = monthly + 1 end
    if day == today and before ~= today then daily = daily + 1 end
  end
  return struct.pack(Q_FORMAT, weekly, monthly, alltime, today, daily)
end

-- A record that is due but not rolled yet is updated like any other: the roll computes its windows
-- from the tiles, and no read returns them before.
-- Two tables are reused for all records: creating and growing tables is a large part of their cost.
local ask, set = {'HMGET'}, {'HSET'}

local function count(kind, id, deltas, offers)
  local key = home .. kind .. ':' .. id
  local asked, block = 3, nil
  ask[2], ask[3] = key, 's'
  for i = 1, #deltas, 3 do
    local day = deltas[i]
    if day > today - TILE_DAYS and block_of(day) ~= block then
      block = block_of(day)
      asked = asked + 1
      ask[asked] = text_of(block)
    end
  end
  local offers_at = asked - 1
  for i = 1, #offers, 2 do
    asked = asked + 1
    ask[asked] = seen_field(offers[i], offers[i + 1])
  end
  if offers ~= NONE then
    asked = asked + 1
    ask[asked] = 'q'
  end
  local got = redis.call(unpack(ask, 1, asked))
  if not got[1] and id ~= OTHER and is_full(kind) then
    others[kind][id] = true
    for i = 3, #deltas, 3 do overflow[kind] = (overflow[kind] or 0) + deltas[i] end
    return count(kind, OTHER, deltas, NONE)
  end
  local s = got[1] and cmsgpack.unpack(got[1]) or {0}

  local ranked = ranked_in[kind]
  set[2] = key
  local n_set, n_got, i, due, in_week, in_month = 2, 1, 1, s[1], false, false
  while deltas[i] and deltas[i] <= today - TILE_DAYS do
    add(s, codes[deltas[i + 1]], 0, 0, deltas[i + 2])
    i = i + 3
  end
  while deltas[i] do
    block, n_got = block_of(deltas[i]), n_got + 1
    local tile = got[n_got] and cmsgpack.unpack(got[n_got]) or {}
    repeat
      local day, code, n = deltas[i], codes[deltas[i + 1]], deltas[i + 2]
      local weekly, monthly = day <= today and day > today - 7, day <= today
      add(s, code, weekly and n or 0, monthly and n or 0, n)
      add_to_tile(tile, code * BLOCK_DAYS + day % BLOCK_DAYS, n)
      i = i + 3
      if day ~= deltas[i] then -- end of the day's entries
        in_week, in_month = in_week or weekly, in_month or monthly
        if day >= today and ranked.d then rank(kind, 'd' .. day, id, total_of_day(tile, day)) end
        due = earlier(due, due_of(day, today))
      end
    until not deltas[i] or block_of(deltas[i]) ~= block
    set[n_set + 1], set[n_set + 2], n_set = text_of(block), cmsgpack.pack(tile), n_set + 2
  end
  if due ~= s[1] then
    s[1] = due
    local list = dues[due]
    if not list then
      list = {}
      dues[due] = list
    end
    list[#list + 1] = kind .. ':' .. id
  end
  set[n_set + 1], set[n_set + 2], n_set = 's', cmsgpack.pack(s), n_set + 2
  if offers ~= NONE then
    local latest, new = {}, {} -- an offer may occur more than once in the batch, with days in any order
    local seen_before, is_new = {}, not got[1]
    for j = 1, #offers, 2 do
      local at, day = offers_at + (j - 1) / 2, offers[j + 1]
      local name, seen = ask[at + 2], got[at]
      if day > (latest[name] or seen and tonumber(seen) or -1) then
        if not seen and not latest[name] then new[#new + 1] = name end
        latest[name], seen_before[name] = day, seen
      end
    end
    if #new > 0 then limit_offers(key, is_new, new, latest) end
    if next(latest) then
      local uniques = uniques_after(got[asked - 2], is_new, latest, seen_before)
      if uniques then set[n_set + 1], set[n_set + 2], n_set = 'q', uniques, n_set + 2 end
    end
    for name, day in pairs(latest) do
      set[n_set + 1], set[n_set + 2], n_set = name, text_of(day), n_set + 2
    end
  end
  redis.call(unpack(set, 1, n_set))
  if in_week and ranked.w then rank(kind, 'w', id, total_of(s, WEEKLY)) end
  if in_month and ranked.m then rank(kind, 'm', id, total_of(s, MONTHLY)) end
  rank(kind, 'a', id, total_of(s, ALLTIME))
end

-- Adds the days of the deltas of a list of groups to {day -> true}; `step`: values of a group.
local function add_days(days, list, step)
  for i = 2, #list, step do
    local deltas = list[i]
    for j = 1, #deltas, 3 do days[deltas[j]] = true end
  end
end

-- The keys that counting writes besides records, given {day -> true} of its deltas: sorted sets, due sets.
local function index_keys(kinds, days)
  local keys, n, dues = {}, 0, {}
  for _, kind in ipairs(kinds) do
    local is_ranked = ranked_in[kind]
    for _, period in ipairs({'a', 'm', 'w'}) do
      if is_ranked[period] then keys[n + 1], n = rank_of(kind, period), n + 1 end
    end
    for day in pairs(days) do
      if is_ranked.d and day >= today then keys[n + 1], n = rank_of(kind, 'd' .. day), n + 1 end
    end
  end
  for day in pairs(days) do
    local due = day > today - TILE_DAYS and due_of(day, today)
    if due and not dues[due] then
      dues[due] = true
      keys[n + 1], n = home .. 'due:' .. due, n + 1
    end
  end
  return keys
end

-- Writes what counting has collected.
local function write_ranks_and_dues()
  for kind, of_kind in pairs(ranks) do
    for period, list in pairs(of_kind) do
      local key = rank_of(kind, period)
      in_parts(list, function(...) redis.call('ZADD', key, ...) end)
    end
  end
  for due, list in pairs(dues) do
    in_parts(list, function(...) redis.call('SADD', home .. 'due:' .. due, ...) end)
  end
end

-- Counts the actions, treatments and channels of a batch.
local function count_groups(parts)
  for _, kind in ipairs({'a', 't', 'c'}) do
    local list = parts[kind]
    for i = 1, #list, 2 do count(kind, list[i], list[i + 1], NONE) end
  end
end

-- Notes what was beyond a limit, and appends it to an answer.
local function add_overflow(answer)
  for kind, n in pairs(overflow) do
    redis.call('HINCRBY', meta, 'over:' .. kind, n)
    answer[#answer + 1] = kind
    answer[#answer + 1] = n
  end
end
