-- Shared by every script that changes counters. KEYS[1] is the tenant's `active` key; all other
-- keys are made from it, so they carry the same hash tag and are in the same slot.
--
-- A record is a hash, one per group (action, treatment, channel, customer) and generation:
--   s       msgpack {due, weekly, monthly, alltime}; each window is a flat {code, count, ...}
--   <day>   msgpack {code, count, ...}: the tile of that calendar day, for TILE_DAYS days
--   o<id>   customers only: the last day, today or before, that offer <id> was interacted with
--   p<day>:<id>  that day, if it has not come yet: of an event a few minutes ahead of midnight, or
--           that waited for a worker which counts it before it rolls
-- `due` is the next window day on which the windows of the record change by themselves; the record
-- is then a member of the set due:<due>. A code is the place of the outcome type in meta's `types`.
local TILE_DAYS = 31
local base = string.sub(KEYS[1], 1, -7)
local gen = ARGV[1]
local home = base .. gen .. ':'
local meta = home .. 'meta'

local function rank_of(kind, period)
  return home .. 'r:' .. kind .. ':' .. period
end

local function sum(window)
  local n = 0
  for i = 2, #window, 2 do n = n + window[i] end
  return n
end

local function add(window, code, n)
  for i = 1, #window, 2 do
    if window[i] == code then
      window[i + 1] = window[i + 1] + n
      return
    end
  end
  local m = #window
  window[m + 1] = code
  window[m + 2] = n
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

-- Works out the windows of a record for `today` from its tiles, and forgets the tiles that left.
-- Depends on nothing but the tiles, so doing it twice, or late, changes nothing.
-- Returns the new `s`.
local function refresh(kind, id, key, today)
  local fields = redis.call('HGETALL', key)
  local s = {0, {}, {}, {}}
  local before_weekly, before_monthly = 0, 0
  local weekly, monthly, due = {}, {}, 0
  local gone, came = {}, {}
  for i = 1, #fields, 2 do
    local name, value = fields[i], fields[i + 1]
    local day = tonumber(name)
    local first = string.byte(name)
    if name == 's' then
      local old = cmsgpack.unpack(value)
      before_weekly, before_monthly = sum(old[2]), sum(old[3])
      s[4] = old[4]
    elseif first == 111 then -- 'o'
    elseif first == 112 then -- 'p'
      local seen = tonumber(value)
      if seen <= today then
        local offer = string.sub(name, string.find(name, ':', 1, true) + 1)
        if seen > (came[offer] or 0) then came[offer] = seen end
        gone[#gone + 1] = name
      end
    elseif day <= today - TILE_DAYS then
      gone[#gone + 1] = name
    else
      if day <= today then
        local tile = cmsgpack.unpack(value)
        for j = 1, #tile, 2 do
          add(monthly, tile[j], tile[j + 1])
          if day > today - 7 then add(weekly, tile[j], tile[j + 1]) end
        end
      end
      local next_due = due_of(day, today)
      if due == 0 or next_due < due then due = next_due end
    end
  end
  -- What came is later than what was seen before: that day had not come then.
  for offer, seen in pairs(came) do redis.call('HSET', key, 'o' .. offer, seen) end
  if #gone > 0 then redis.call('HDEL', key, unpack(gone)) end
  s[1], s[2], s[3] = due, weekly, monthly
  redis.call('HSET', key, 's', cmsgpack.pack(s))
  if due > 0 then redis.call('SADD', home .. 'due:' .. due, kind .. ':' .. id) end
  local now_weekly, now_monthly = sum(weekly), sum(monthly)
  if now_weekly ~= before_weekly then set_rank(kind, 'w', id, now_weekly) end
  if now_monthly ~= before_monthly then set_rank(kind, 'm', id, now_monthly) end
  return s
end
