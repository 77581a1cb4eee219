-- Commits one batch of one partition for one tenant: counter deltas, identities and the watermark
-- they bring, all or nothing.
-- ARGV: 1 generation, 2 window day, 3 watermark field, 4 watermark believed ('' = none),
--       5 next watermark, 6 build token ('' = the generation is the active one),
--       7 slots of identities to look back,
--       8 msgpack {types, ids, a, t, c, u}:
--         types  outcome type keys; the deltas name them by place, from 0
--         ids    flat {slot, {identity, ...}, ...}: signed 64-bit integers as text
--         a,t,c  flat {id, deltas, ...}; deltas flat {day, type, count, ...} in order of day
--         u      flat {id, deltas, offers, ...}; offers flat {offer id, day, ...}
-- Answers {'ok'}, {'fenced', generation, day, watermark} or {'duplicates', place in ids, ...};
-- anything but 'ok' has changed nothing.
local token, wfield, first, next_watermark = ARGV[6], ARGV[3], ARGV[4], ARGV[5]
local state = redis.call('HMGET', meta, 'day', wfield, 'building', 'types')
local owner
if token == '' then
  owner = redis.call('GET', KEYS[1]) == gen
else
  owner = state[3] == token
end
if not owner or state[1] ~= ARGV[2] or (state[2] or '') ~= first then
  local active = redis.call('GET', KEYS[1])
  if not active then return {'fenced', '', '', ''} end
  if token == '' and active ~= gen then
    state = redis.call('HMGET', base .. active .. ':meta', 'day', wfield)
  end
  return {'fenced', active, state[1] or '', state[2] or ''}
end
local today = tonumber(state[1])
local batch = cmsgpack.unpack(ARGV[8])

-- 1. Identities. A slot's identities are in integer sets of about LOAD members (8 bytes each),
-- grown one at a time by linear hashing; meta's d:<slot> is 'identities buckets'.
local LOAD = 200
local look_back = tonumber(ARGV[7])

local function half_of(buckets)
  local half = 1
  while half * 2 <= buckets do half = half * 2 end
  return half
end

local function bucket_of(identity, buckets, half)
  local b = tonumber(string.sub(identity, -9)) % (half * 2)
  if b >= buckets then b = b - half end
  return b
end

local function slot_key(slot, bucket)
  return home .. 'ids:' .. slot .. ':' .. bucket
end

local slots = {} -- slot -> {identities, buckets}, for those that exist
local function slot_state(slot)
  if slots[slot] == nil then
    local text = redis.call('HGET', meta, 'd:' .. slot)
    if text then
      local n, b = string.match(text, '(%d+) (%d+)')
      slots[slot] = {tonumber(n), tonumber(b)}
    else
      slots[slot] = false
    end
  end
  return slots[slot]
end

local function by_bucket(ids, buckets)
  local groups, half = {}, half_of(buckets)
  for i = 1, #ids do
    local b = bucket_of(ids[i], buckets, half)
    local group = groups[b]
    if group then
      group[1][#group[1] + 1] = ids[i]
      group[2][#group[2] + 1] = i
    else
      groups[b] = {{ids[i]}, {i}}
    end
  end
  return groups
end

local duplicates, place = {}, 0
for k = 1, #batch.ids, 2 do
  local slot, ids = batch.ids[k], batch.ids[k + 1]
  for seen_slot = slot - look_back, slot + look_back do
    local known = slot_state(seen_slot)
    if known then
      for b, group in pairs(by_bucket(ids, known[2])) do
        local found = redis.call('SMISMEMBER', slot_key(seen_slot, b), unpack(group[1]))
        for i = 1, #found do
          if found[i] == 1 then duplicates[#duplicates + 1] = place + group[2][i] - 1 end
        end
      end
    end
  end
  place = place + #ids
end
if #duplicates > 0 then return {'duplicates', unpack(duplicates)} end

for k = 1, #batch.ids, 2 do
  local slot, ids = batch.ids[k], batch.ids[k + 1]
  local known = slot_state(slot) or {0, 1}
  for b, group in pairs(by_bucket(ids, known[2])) do
    redis.call('SADD', slot_key(slot, b), unpack(group[1]))
  end
  known[1] = known[1] + #ids
  while known[1] > known[2] * LOAD do
    local from = slot_key(slot, known[2] - half_of(known[2]))
    local to = slot_key(slot, known[2])
    known[2] = known[2] + 1
    local moved, half = {}, half_of(known[2])
    for _, identity in ipairs(redis.call('SMEMBERS', from)) do
      if bucket_of(identity, known[2], half) == known[2] - 1 then moved[#moved + 1] = identity end
    end
    if #moved > 0 then
      redis.call('SREM', from, unpack(moved))
      redis.call('SADD', to, unpack(moved))
    end
  end
  slots[slot] = known
  redis.call('HSET', meta, 'd:' .. slot, known[1] .. ' ' .. known[2])
end

-- 2. Codes of the outcome types.
local types = state[4] and cmsgpack.unpack(state[4]) or {}
local code_of, n_types = {}, #types
for i = 1, n_types do code_of[types[i]] = i - 1 end
local codes = {}
for i, key in ipairs(batch.types) do
  if not code_of[key] then
    types[#types + 1] = key
    code_of[key] = #types - 1
  end
  codes[i - 1] = code_of[key]
end
if #types > n_types then redis.call('HSET', meta, 'types', cmsgpack.pack(types)) end

-- 3. Records. Ranks are gathered and written once per sorted set.
local ranks, dues = {}, {}
local function rank(kind, period, id, window)
  local name = kind .. ':' .. period
  local list = ranks[name]
  if not list then
    list = {home .. 'r:' .. name}
    ranks[name] = list
  end
  list[#list + 1] = -sum(window)
  list[#list + 1] = id
end

local function seen_field(offer, day)
  return (day > today and 'p' .. day .. ':' or 'o') .. offer
end

local function count(kind, id, deltas, offers)
  local key = home .. kind .. ':' .. id
  local ask, wanted = {'HMGET', key, 's'}, {}
  local last
  for i = 1, #deltas, 3 do
    local day = deltas[i]
    if day ~= last and day > today - TILE_DAYS then
      ask[#ask + 1] = day
      wanted[#wanted + 1] = day
    end
    last = day
  end
  local offers_at = #ask - 1
  for i = 1, #offers, 2 do
    ask[#ask + 1] = seen_field(offers[i], offers[i + 1])
  end
  local got = redis.call(unpack(ask))
  local s = got[1] and cmsgpack.unpack(got[1]) or {0, {}, {}, {}}
  if s[1] > 0 and s[1] <= today then
    s = refresh(kind, id, key, today)
    got = redis.call(unpack(ask))
  end

  local set = {'HSET', key}
  local w, m, due = false, false, s[1]
  local tile, tile_n, i = nil, 0, 1
  while i <= #deltas do
    local day, tile_day = deltas[i], nil
    if day > today - TILE_DAYS then
      tile_n = tile_n + 1
      tile_day = wanted[tile_n]
      tile = got[tile_n + 1] and cmsgpack.unpack(got[tile_n + 1]) or {}
      local next_due = due_of(day, today)
      if due == 0 or next_due < due then due = next_due end
    end
    local monthly = tile_day and day <= today
    local weekly = monthly and day > today - 7
    repeat
      local code, n = codes[deltas[i + 1]], deltas[i + 2]
      if tile_day then add(tile, code, n) end
      if weekly then add(s[2], code, n) end
      if monthly then add(s[3], code, n) end
      add(s[4], code, n)
      i = i + 3
    until deltas[i] ~= day
    if tile_day then
      set[#set + 1] = tile_day
      set[#set + 1] = cmsgpack.pack(tile)
      if day >= today then rank(kind, 'd' .. day, id, tile) end
    end
    w, m = w or weekly, m or monthly
  end
  if due ~= s[1] then
    s[1] = due
    local list = dues[due]
    if not list then
      list = {'SADD', home .. 'due:' .. due}
      dues[due] = list
    end
    list[#list + 1] = kind .. ':' .. id
  end
  set[#set + 1] = 's'
  set[#set + 1] = cmsgpack.pack(s)
  local latest = {} -- an offer may be in the batch more than once, its days in any order
  for j = 1, #offers, 2 do
    local seen, day = got[offers_at + (j - 1) / 2], offers[j + 1]
    local name = seen_field(offers[j], day)
    if day > (latest[name] or seen and tonumber(seen) or -1) then
      latest[name] = day
    end
  end
  for name, day in pairs(latest) do
    set[#set + 1] = name
    set[#set + 1] = day
  end
  redis.call(unpack(set))
  if w then rank(kind, 'w', id, s[2]) end
  if m then rank(kind, 'm', id, s[3]) end
  rank(kind, 'a', id, s[4])
end

local NONE = {}
for _, kind in ipairs({'a', 't', 'c'}) do
  local list = batch[kind]
  for i = 1, #list, 2 do count(kind, list[i], list[i + 1], NONE) end
end
for i = 1, #batch.u, 3 do count('u', batch.u[i], batch.u[i + 1], batch.u[i + 2]) end

-- unpack() takes a few thousand values at most, so long lists go in parts.
local PART = 2000
for _, list in pairs(ranks) do
  for i = 2, #list, PART do
    redis.call('ZADD', list[1], unpack(list, i, math.min(i + PART - 1, #list)))
  end
end
for _, list in pairs(dues) do
  for i = 3, #list, PART do
    redis.call('SADD', list[2], unpack(list, i, math.min(i + PART - 1, #list)))
  end
end

-- 4. The watermark that all this brings.
redis.call('HSET', meta, wfield, next_watermark)
return {'ok'}
