-- Shared by every script that changes counters. KEYS[1] is the tenant's `active` key; all other
-- keys are made from it, so they carry the same hash tag and are in the same slot.
local base = string.sub(KEYS[1], 1, -7)
local gen = ARGV[1]
local home = base .. gen .. ':'
local meta = home .. 'meta'
local KINDS = {'a', 't', 'c', 'u'}

local function rank_of(kind, period)
  return home .. 'r:' .. kind .. ':' .. period
end

-- Adds to the windows of one outcome type.
local function add(s, code, weekly, monthly, alltime)
  for i = FIRST, #s, STEP do
    if s[i] == code then
      s[i + 1], s[i + 2], s[i + 3] = s[i + 1] + weekly, s[i + 2] + monthly, s[i + 3] + alltime
      return
    end
  end
  local n = #s
  s[n + 1], s[n + 2], s[n + 3], s[n + 4] = code, weekly, monthly, alltime
end

-- The next window day after `today` on which the tile of `day` enters or leaves a window.
local function due_of(day, today)
  if day > today then return day end
  if day + 7 > today then return day + 7 end
  return day + TILE_DAYS
end

local function set_rank(kind, period, id, total)
  if total > 0 then
    redis.call('ZADD', rank_of(kind, period), -total, id)
  else
    redis.call('ZREM', rank_of(kind, period), id)
  end
end

-- Works out the windows of a record for `today` from its tiles, and forgets the tiles that left: a
-- block at a time, so those of up to BLOCK_DAYS - 1 days more stay, and are passed over.
-- Depends on nothing but the tiles, so doing it twice, or late, changes nothing.
-- Returns the new `s`.
local function refresh(kind, id, key, today)
  local fields = redis.call('HGETALL', key)
  local s, tiles, gone, came = nil, {}, {}, {}
  for i = 1, #fields, 2 do
    local name, value = fields[i], fields[i + 1]
    local first = string.byte(name)
    if first == 45 then -- '-', an offer seen
    elseif first == 115 then -- 's'
      s = cmsgpack.unpack(value)
    elseif first == 112 then -- 'p'
      local seen = tonumber(value)
      if seen <= today then
        local offer = string.sub(name, string.find(name, ':', 1, true) + 1)
        if seen > (came[offer] or 0) then came[offer] = seen end
        gone[#gone + 1] = name
      end
    else
      local block = tonumber(name)
      if (block + 1) * BLOCK_DAYS <= today - TILE_DAYS + 1 then
        gone[#gone + 1] = name
      else
        tiles[#tiles + 1], tiles[#tiles + 2] = block, cmsgpack.unpack(value)
      end
    end
  end
  local before_weekly, before_monthly = total_of(s, WEEKLY), total_of(s, MONTHLY)
  for i = FIRST, #s, STEP do s[i + WEEKLY], s[i + MONTHLY] = 0, 0 end
  local due, weekly, monthly = 0, 0, 0
  for i = 1, #tiles, 2 do
    local block, tile = tiles[i], tiles[i + 1]
    for j = 1, #tile, 2 do
      local day, n = day_of(block, tile[j]), tile[j + 1]
      if day > today - TILE_DAYS then
        if day <= today then
          local in_week = day > today - 7 and n or 0
          weekly, monthly = weekly + in_week, monthly + n
          add(s, code_of(tile[j]), in_week, n, 0)
        end
        local next_due = due_of(day, today)
        if due == 0 or next_due < due then due = next_due end
      end
    end
  end
  -- What came is later than what was seen before: that day had not come then.
  for offer, seen in pairs(came) do redis.call('HSET', key, '-' .. offer, seen) end
  if #gone > 0 then redis.call('HDEL', key, unpack(gone)) end
  s[1] = due
  redis.call('HSET', key, 's', cmsgpack.pack(s))
  if due > 0 then redis.call('SADD', home .. 'due:' .. due, kind .. ':' .. id) end
  if weekly ~= before_weekly then set_rank(kind, 'w', id, weekly) end
  if monthly ~= before_monthly then set_rank(kind, 'm', id, monthly) end
  return s
end
