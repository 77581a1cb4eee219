-- Included in every script that changes counters. KEYS[1] is the tenant's `active` key; all other
-- keys are derived from it, so they have the same hash tag and are in the same slot.
local base = string.sub(KEYS[1], 1, -7)
local gen = ARGV[1]
local home = base .. gen .. ':'
local meta = home .. 'meta'
local KINDS = {'a', 't', 'c', 'u'}
-- Of the identities that a generation holds. Without this field, they leave out the customer.
local FORMAT = '2'

if string.sub(KEYS[1], -7) == ':active' then together(meta) end -- else: a key of no tenant

local function rank_of(kind, period)
  return home .. 'r:' .. kind .. ':' .. period
end

-- Grouping code -> period code -> whether the rank is kept. Scripts that change ranks set that of customers.
local EVERY = ranked_of('')
local ranked_in = {a = EVERY, t = EVERY, c = EVERY, u = EVERY}

-- Adds to the windows of one outcome type in `s`.
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

-- Returns a stamp: a value that no other state of the tenant has, by the clock of Redis. A script that changes
-- what answers show sets it in meta, in the same step: `stamp_u` for customers, `stamp` for the other groupings.
-- `place` tells two scripts of one microsecond apart, where a clock was set back. See ADR 0026.
local function new_stamp(place)
  local time = redis.call('TIME')
  return time[1] .. '.' .. time[2] .. '.' .. place
end

-- Returns {index from 0 -> code} of outcome type keys, given meta's packed `types`; adds new ones to it.
local function codes_of(keys, packed)
  local types = packed and cmsgpack.unpack(packed) or {}
  local code_by_type, n_types = {}, #types
  for i = 1, n_types do code_by_type[types[i]] = i - 1 end
  local codes = {}
  for i, key in ipairs(keys) do
    if not code_by_type[key] then
      types[#types + 1] = key
      code_by_type[key] = #types - 1
    end
    codes[i - 1] = code_by_type[key]
  end
  if #types > n_types then redis.call('HSET', meta, 'types', cmsgpack.pack(types)) end
  return codes
end

-- Returns the next window day after `today` on which the tile of `day` enters or leaves a window.
local function due_of(day, today)
  if day > today then return day end
  if day + 7 > today then return day + 7 end
  return day + TILE_DAYS
end

-- Returns the earlier of two due days; 0 = none.
local function earlier(due, next_due)
  return (due == 0 or next_due < due) and next_due or due
end

-- Returns whether something keeps the generation from being complete: a watermark that it has yet to
-- reach (t:), offsets that history has and these counters never saw (gap:), a start without the
-- events of history (unproven), keys that Redis may have evicted (evicted), a script that failed
-- half-way (damaged), identities of an older format (outdated), or shards of the generation before that
-- may have counted more (unsettled).
local REASONS = {unproven = true, evicted = true, damaged = true, outdated = true, unsettled = true}
local function lacks_something()
  for _, field in ipairs(redis.call('HKEYS', meta)) do
    if REASONS[field] then return true end
    if string.find(field, '^t:') or string.find(field, '^gap:') then return true end
  end
  return false
end

local function complete_if_whole()
  if not lacks_something() then redis.call('HSET', meta, 'complete', '1') end
end

-- Marks the generation as wrong in a way that only a rebuild, that is another generation, makes good.
local function damage(reason)
  redis.call('HSET', meta, 'damaged', string.sub(reason, 1, 200), 'complete', '0')
end

-- Marks a generation in which identities of an older format recognise no copies of new events.
local function outdate()
  redis.call('HSET', meta, 'outdated', '1', 'complete', '0')
end

-- Runs `write`. Redis keeps what a script wrote before it failed, so the generation is damaged then.
-- Returns nil, or why it failed.
local function write_or_damage(write)
  local ok, failure = pcall(write)
  if ok then return nil end
  local reason = type(failure) == 'table' and failure.err or tostring(failure)
  damage(reason)
  return reason
end

-- Counters of older versions that started empty say so by nothing else than complete = 0.
local function explain_incomplete()
  if redis.call('HGET', meta, 'complete') == '0' and not lacks_something() then
    redis.call('HSET', meta, 'unproven', '1')
  end
end

-- Returns {watermark field -> offset}: what a generation has counted, or has yet to count before it
-- is complete. The progress of a rebuild is left out.
local function reach_of(fields)
  local reach = {}
  for i = 1, #fields, 2 do
    local kind, source = string.match(fields[i], '^([wt]):(.+)$')
    if kind and string.sub(source, 1, 8) ~= 'rebuild:' then
      reach[source] = math.max(reach[source] or 0, tonumber(fields[i + 1]))
    end
  end
  return reach
end

-- Returns flat {source, watermark, target, ...} of the sources in which `meta` is behind `reach`, in
-- the order of their names.
local function behind_of(reach)
  local sources, behind = {}, {}
  for source in pairs(reach) do sources[#sources + 1] = source end
  table.sort(sources)
  for _, source in ipairs(sources) do
    local watermark = tonumber(redis.call('HGET', meta, 'w:' .. source) or 0)
    if watermark < reach[source] then
      local n = #behind
      behind[n + 1], behind[n + 2], behind[n + 3] = source, watermark, reach[source]
    end
  end
  return behind
end

-- Returns whether the watermark field is the first one of its topic id, and there are some of others.
local function is_new_topic(wfield)
  local topic_id, has_others = string.match(wfield, '^w:(.+):%d+$'), false
  for _, field in ipairs(redis.call('HKEYS', meta)) do
    local other = string.match(field, '^w:(.+):%d+$')
    if other == topic_id then return false end
    has_others = has_others or (other ~= nil and other ~= 'rebuild')
  end
  return has_others
end

-- Makes the owners of all identities unknown: see slots.lua.
local function disown()
  for _, field in ipairs(redis.call('HKEYS', meta)) do
    local slot = string.match(field, '^o:(-?%d+)$')
    if slot then redis.call('HSET', meta, 'n:' .. slot, '1') end
  end
end
