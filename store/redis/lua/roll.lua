-- Moves the window day of a generation to a later day, and rolls a bounded number of the records
-- that become due. The due sets hold the progress: a record leaves its set in the script call that
-- rolls it, so any worker can continue where another stopped.
-- ARGV: 1 generation, 2 build token ('' = active), 3 target day, 4 maximum records to roll,
--       5 oldest slot of identities that is still used
-- Returns {'ok', day, 1 if nothing is left to roll else 0, records rolled} or
-- {'fenced', generation}.
local function set_rank(kind, period, id, total)
  if total > 0 then
    redis.call('ZADD', rank_of(kind, period), -total, id)
  else
    redis.call('ZREM', rank_of(kind, period), id)
  end
end

-- Computes the windows of a record for `today` from its tiles, and deletes expired tiles: a block is
-- deleted once all its days are out of the windows; until then those days are skipped.
-- It depends on the tiles only, so a repeated or late call gives the same result.
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
      tiles[#tiles + 1], tiles[#tiles + 2] = tonumber(name), cmsgpack.unpack(value)
    end
  end
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
    local before = redis.call('HGET', key, '-' .. offer)
    if not before or seen > tonumber(before) then redis.call('HSET', key, '-' .. offer, seen) end
  end
  if #gone > 0 then redis.call('HDEL', key, unpack(gone)) end
  s[1] = due
  redis.call('HSET', key, 's', cmsgpack.pack(s))
  if due > 0 then redis.call('SADD', home .. 'due:' .. due, kind .. ':' .. id) end
  if weekly ~= before_weekly then set_rank(kind, 'w', id, weekly) end
  if monthly ~= before_monthly then set_rank(kind, 'm', id, monthly) end
end

local active = redis.call('GET', KEYS[1])
local state = redis.call('HMGET', meta, 'day', 'rolled', 'building')
local owner
if ARGV[2] == '' then owner = active == gen else owner = state[3] == ARGV[2] end
if not owner or not state[1] then return {'fenced', active or ''} end
local day, rolled, target = tonumber(state[1]), tonumber(state[2]), tonumber(ARGV[3])

if target > day then
  for past = day, target - 1 do
    for _, kind in ipairs(KINDS) do redis.call('UNLINK', rank_of(kind, 'd' .. past)) end
  end
  day = target
  redis.call('HSET', meta, 'day', day)
end

local left, done = tonumber(ARGV[4]), 0

-- Delete the slots of identities that are older than the horizon. Not while the generation has yet to
-- reach the watermarks of the one before (fields t:*): records that were counted long ago are read
-- again, and their copies must be recognized.
local old, is_behind = {}, false
for _, field in ipairs(redis.call('HKEYS', meta)) do
  local slot = tonumber(string.match(field, '^d:(-?%d+)$') or '')
  if slot and slot < tonumber(ARGV[5]) then old[#old + 1] = slot end
  is_behind = is_behind or string.sub(field, 1, 2) == 't:'
end
for _, slot in ipairs(is_behind and {} or old) do
  redis.call('UNLINK', home .. 'ids:' .. slot)
  redis.call('HDEL', meta, 'd:' .. slot)
end

while rolled < day and left > 0 do
  local due = home .. 'due:' .. (rolled + 1)
  local members = redis.call('SPOP', due, left)
  for _, member in ipairs(members) do
    local kind, id = string.sub(member, 1, 1), string.sub(member, 3)
    refresh(kind, id, home .. kind .. ':' .. id, day)
  end
  done = done + #members
  left = left - #members
  if redis.call('EXISTS', due) == 0 then rolled = rolled + 1 end
end
redis.call('HSET', meta, 'rolled', rolled)
return {'ok', day, (rolled == day and left > 0) and 1 or 0, done}
