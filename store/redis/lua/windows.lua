-- Windows of a record, computed from its tiles. Included after common.lua and parts.lua by the scripts that change
-- tiles other than by counting: the roll, and the repair of an audit.
local function set_rank(kind, period, id, total)
  if not ranked_in[kind][string.sub(period, 1, 1)] then return end
  if total > 0 then
    redis.call('ZADD', rank_of(kind, period), -total, id)
  else
    redis.call('ZREM', rank_of(kind, period), id)
  end
end

-- Returns the field `q` of a customer, given offer -> last day.
local function uniques_of(last, today)
  local weekly, monthly, alltime, daily = 0, 0, 0, 0
  for _, day in pairs(last) do
    alltime = alltime + 1
    if day > today - 7 then weekly = weekly + 1 end
    if day > today - TILE_DAYS then monthly = monthly + 1 end
    if day == today then daily = daily + 1 end
  end
  return struct.pack(Q_FORMAT, weekly, monthly, alltime, today, daily)
end

-- Computes the windows of a record for `today` from its tiles, and deletes expired tiles: a block is
-- deleted once all its days are out of the windows; until then those days are skipped.
-- So are the numbers of distinct offers of a customer, from the days of the offers.
-- It depends on the tiles and these only, so a repeated or late call gives the same result. A record that no
-- longer exists is left out: without this, one lost record would stop the roll of its tenant.
-- Returns the totals of the week and of the month.
local function refresh(kind, id, key, today)
  local fields = redis.call('HGETALL', key)
  local s, tiles, gone, came = nil, {}, {}, {}
  local last, is_ahead = {}, false -- offer -> last day up to today; whether some were seen after today
  for i = 1, #fields, 2 do
    local name, value = fields[i], fields[i + 1]
    local first = string.byte(name)
    if first == 45 then -- '-', an offer seen
      last[string.sub(name, 2)] = tonumber(value)
    elseif first == 113 then -- 'q'
    elseif first == 115 then -- 's'
      s = cmsgpack.unpack(value)
    elseif first == 112 then -- 'p'
      local seen = tonumber(value)
      if seen <= today then
        local offer = string.sub(name, string.find(name, ':', 1, true) + 1)
        if seen > (came[offer] or 0) then came[offer] = seen end
        gone[#gone + 1] = name
      else
        is_ahead = true
      end
    else
      tiles[#tiles + 1], tiles[#tiles + 2] = tonumber(name), cmsgpack.unpack(value)
    end
  end
  if not s then return 0, 0 end
  local before_weekly, before_monthly = total_of(s, WEEKLY), total_of(s, MONTHLY)
  for i = FIRST, #s, STEP do s[i + WEEKLY], s[i + MONTHLY] = 0, 0 end
  local due, weekly, monthly = 0, 0, 0
  for i = 1, #tiles, 2 do
    local block, tile, left = tiles[i], tiles[i + 1], true
    for j = 1, #tile, 2 do
      local day, n = day_of(block, tile[j]), tile[j + 1]
      if day > today - TILE_DAYS then
        left = false
        if day <= today then
          local in_week = day > today - 7 and n or 0
          weekly, monthly = weekly + in_week, monthly + n
          add(s, code_of(tile[j]), in_week, n, 0)
        end
        due = earlier(due, due_of(day, today))
      end
    end
    if left then gone[#gone + 1] = block end
  end
  for offer, seen in pairs(came) do
    if seen > (last[offer] or -1) then
      redis.call('HSET', key, '-' .. offer, seen)
      last[offer] = seen
    end
  end
  in_parts(gone, function(...) redis.call('HDEL', key, ...) end)
  s[1] = due
  if kind == 'u' then
    local is_known = not is_ahead and not last['0'] -- '0': see OTHER_OFFERS in counting.lua
    redis.call('HSET', key, 's', cmsgpack.pack(s), 'q', is_known and uniques_of(last, today) or '')
  else
    redis.call('HSET', key, 's', cmsgpack.pack(s))
  end
  if due > 0 then redis.call('SADD', home .. 'due:' .. due, kind .. ':' .. id) end
  if weekly ~= before_weekly then set_rank(kind, 'w', id, weekly) end
  if monthly ~= before_monthly then set_rank(kind, 'm', id, monthly) end
  return weekly, monthly
end
