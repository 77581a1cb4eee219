-- Commits one batch of one partition for one tenant: counter deltas, identities and the next
-- watermark, in one atomic step.
-- ARGV: 1 generation, 2 window day, 3 watermark field, 4 expected watermark ('' = none),
--       5 next watermark, 6 build token ('' = the generation is the active one),
--       7 number of slots before and after an identity's own slot that are searched for it,
--       8 msgpack {types, n, a, t, c, u}:
--         types  outcome type keys; the deltas refer to them by index from 0
--         n      events in the batch
--         a,t,c  flat {id, deltas, ...}; deltas flat {day, type, count, ...} in order of day
--         u      flat {id, deltas, offers, ...}; offers flat {offer id, day, ...}
--       9 maximum groups of a grouping; further groups are counted as one, OTHER
--      10.. slot, concatenated identities, ...
-- Returns {'ok', grouping code, interactions counted as OTHER, ...},
-- {'fenced', generation, day, watermark} or {'duplicates', index of the identity from 0, ...};
-- only 'ok' has changed anything.
local token, wfield, expected_offset, next_watermark = ARGV[6], ARGV[3], ARGV[4], ARGV[5]
local target_field = 't' .. string.sub(wfield, 2)
local state = redis.call('HMGET', meta, 'day', wfield, 'building', 'types', 'events', target_field)
local owner
if token == '' then
  owner = redis.call('GET', KEYS[1]) == gen
else
  owner = state[3] == token
end
if not owner or state[1] ~= ARGV[2] or (state[2] or '') ~= expected_offset then
  local active = redis.call('GET', KEYS[1])
  if not active then return {'fenced', '', '', ''} end
  if token == '' and active ~= gen then
    state = redis.call('HMGET', base .. active .. ':meta', 'day', wfield)
  end
  return {'fenced', active, state[1] or '', state[2] or ''}
end
local today = tonumber(state[1])
local batch = cmsgpack.unpack(ARGV[8])

-- unpack() is limited to a few thousand values, and Redis is faster with shorter commands.
local PART = 200

local function in_parts(list, call)
  for i = 1, #list, PART do call(unpack(list, i, math.min(i + PART - 1, #list))) end
end

-- Returns the values of many fields of a hash, false for a missing field.
local function values_of(key, fields)
  local all, n = {}, 0
  in_parts(fields, function(...)
    local found = redis.call('HMGET', key, ...)
    for i = 1, #found do all[n + i] = found[i] end
    n = n + #found
  end)
  return all
end

-- 1. Identities. A slot of them is one hash: bucket -> concatenated identities of ID_BYTES each. It
-- has one bucket per LOAD identities and grows by linear hashing, one bucket at a time; meta's
-- d:<slot> is the number of identities in it.
local LOAD, ID_BYTES = 12, 8
local look_back = tonumber(ARGV[7])
local byte, find, sub = string.byte, string.find, string.sub

local function slot_key(slot) return home .. 'ids:' .. slot end

local function buckets_for(identities) return math.max(1, math.ceil(identities / LOAD)) end

local function half_of(buckets)
  local half = 1
  while half * 2 <= buckets do half = half * 2 end
  return half
end

local function hash_of(identity)
  local b1, b2, b3, b4 = byte(identity, 1, 4)
  return b1 + b2 * 256 + b3 * 65536 + b4 * 16777216
end

-- Returns the bucket index of each hash, for a slot with that many buckets.
local function bucket_indexes(hashes, buckets)
  local half, indexes = half_of(buckets), {}
  for i = 1, #hashes do
    local b = hashes[i] % (half * 2)
    indexes[i] = b < buckets and b or b - half
  end
  return indexes
end

local function is_in(bucket, identity)
  local at = find(bucket, identity, 1, true)
  while at and at % ID_BYTES ~= 1 do at = find(bucket, identity, at + 1, true) end
  return at ~= nil
end

local function size_of(slot) return tonumber(redis.call('HGET', meta, 'd:' .. slot) or 0) end

local arrived = {} -- {slot, {identity, ...}, {hash, ...}, bucket -> identities, of the buckets read}
for k = 10, #ARGV, 2 do
  local packed, ids, hashes = ARGV[k + 1], {}, {}
  for i = 1, #packed / ID_BYTES do
    ids[i] = sub(packed, i * ID_BYTES - ID_BYTES + 1, i * ID_BYTES)
    hashes[i] = hash_of(ids[i])
  end
  arrived[#arrived + 1] = {tonumber(ARGV[k]), ids, hashes, {}}
end

local duplicates, counted = {}, 0
for _, group in ipairs(arrived) do
  local slot, ids, hashes, held = unpack(group)
  for seen_slot = slot - look_back, slot + look_back do
    local n = size_of(seen_slot)
    if n > 0 then
      local indexes = bucket_indexes(hashes, buckets_for(n))
      local found = values_of(slot_key(seen_slot), indexes)
      for i = 1, #ids do
        local bucket = found[i] or ''
        if is_in(bucket, ids[i]) then duplicates[#duplicates + 1] = counted + i - 1 end
        if seen_slot == slot then held[indexes[i]] = bucket end
      end
    end
  end
  counted = counted + #ids
end
if #duplicates > 0 then return {'duplicates', unpack(duplicates)} end

-- Splits a bucket: moves the identities that belong to the new bucket `b` out of it.
local function split(held, b)
  local half = half_of(b)
  local from, stay, move = held[b - half], {}, {}
  for i = 1, #from, ID_BYTES do
    local identity = sub(from, i, i + ID_BYTES - 1)
    local list = hash_of(identity) % (half * 2) == b and move or stay
    list[#list + 1] = identity
  end
  held[b - half], held[b] = table.concat(stay), table.concat(move)
  return b - half
end

for _, group in ipairs(arrived) do
  local slot, ids, hashes, held = unpack(group)
  local n = size_of(slot)
  local before, after = buckets_for(n), buckets_for(n + #ids)
  local unseen, changed = {}, {}
  if n == 0 then held[0] = '' end
  for b = before, after - 1 do
    local from = b - half_of(b)
    if from < before and not held[from] then unseen[#unseen + 1] = from end
  end
  for i, bucket in ipairs(values_of(slot_key(slot), unseen)) do held[unseen[i]] = bucket or '' end
  for b = before, after - 1 do changed[split(held, b)], changed[b] = true, true end
  for i, b in ipairs(bucket_indexes(hashes, after)) do
    held[b], changed[b] = held[b] .. ids[i], true
  end
  local set, at = {}, 0
  for b in pairs(changed) do
    set[at + 1], set[at + 2], at = b, held[b], at + 2
  end
  in_parts(set, function(...) redis.call('HSET', slot_key(slot), ...) end)
  redis.call('HSET', meta, 'd:' .. slot, n + #ids)
end

-- 2. Codes of the outcome types.
local codes = codes_of(batch.types, state[4])

-- 3. Records. Ranks are collected and written once per sorted set.
local ranks, dues = {a = {}, t = {}, c = {}, u = {}}, {}
local function rank(kind, period, id, total)
  local list = ranks[kind][period]
  if not list then
    list = {}
    ranks[kind][period] = list
  end
  local n = #list
  list[n + 1], list[n + 2] = -total, id
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

-- Groups beyond the limit. A read of a grouping that has any answers `capped`: see `over:` in meta.
local OTHER, groups_max, NONE = '__other__', tonumber(ARGV[9]), {}
local sizes, overflow, others = {}, {}, {a = {}, t = {}, c = {}, u = {}}
local function is_full(kind)
  local size = sizes[kind] or redis.call('ZCARD', rank_of(kind, 'a'))
  local full = size >= groups_max
  sizes[kind] = full and size or size + 1
  return full
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
      ask[asked] = block
    end
  end
  local offers_at = asked - 1
  for i = 1, #offers, 2 do
    asked = asked + 1
    ask[asked] = seen_field(offers[i], offers[i + 1])
  end
  local got = redis.call(unpack(ask, 1, asked))
  if not got[1] and id ~= OTHER and is_full(kind) then
    others[kind][id] = true
    for i = 3, #deltas, 3 do overflow[kind] = (overflow[kind] or 0) + deltas[i] end
    return count(kind, OTHER, deltas, NONE)
  end
  local s = got[1] and cmsgpack.unpack(got[1]) or {0}

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
        if day >= today then rank(kind, 'd' .. day, id, total_of_day(tile, day)) end
        due = earlier(due, due_of(day, today))
      end
    until not deltas[i] or block_of(deltas[i]) ~= block
    set[n_set + 1], set[n_set + 2], n_set = block, cmsgpack.pack(tile), n_set + 2
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
  local latest = {} -- an offer may occur more than once in the batch, with days in any order
  for j = 1, #offers, 2 do
    local at, day = offers_at + (j - 1) / 2, offers[j + 1]
    local name, seen = ask[at + 2], got[at]
    if day > (latest[name] or seen and tonumber(seen) or -1) then latest[name] = day end
  end
  for name, day in pairs(latest) do
    set[n_set + 1], set[n_set + 2], n_set = name, day, n_set + 2
  end
  redis.call(unpack(set, 1, n_set))
  if in_week then rank(kind, 'w', id, total_of(s, WEEKLY)) end
  if in_month then rank(kind, 'm', id, total_of(s, MONTHLY)) end
  rank(kind, 'a', id, total_of(s, ALLTIME))
end

for _, kind in ipairs({'a', 't', 'c'}) do
  local list = batch[kind]
  for i = 1, #list, 2 do count(kind, list[i], list[i + 1], NONE) end
end

-- 4. Customers, once their offers have numbers, which are shorter than offer ids.
local offers_key, unknown = home .. 'offers', {}
for i = 3, #batch.u, 3 do
  local offers = batch.u[i]
  for j = 1, #offers, 2 do
    if others.a[offers[j]] then offers[j] = OTHER end
    if not number_of[offers[j]] then
      unknown[#unknown + 1] = offers[j]
      number_of[offers[j]] = 0 -- placeholder until the lookup below
    end
  end
end
local n_offers, numbered = redis.call('HLEN', offers_key), {}
for i, number in ipairs(values_of(offers_key, unknown)) do
  if not number then
    n_offers = n_offers + 1
    number = n_offers
    numbered[#numbered + 1], numbered[#numbered + 2] = unknown[i], number
  end
  number_of[unknown[i]] = number
end
in_parts(numbered, function(...) redis.call('HSET', offers_key, ...) end)
for i = 1, #batch.u, 3 do count('u', batch.u[i], batch.u[i + 1], batch.u[i + 2]) end

for kind, of_kind in pairs(ranks) do
  for period, list in pairs(of_kind) do
    local key = rank_of(kind, period)
    in_parts(list, function(...) redis.call('ZADD', key, ...) end)
  end
end
for due, list in pairs(dues) do
  in_parts(list, function(...) redis.call('SADD', home .. 'due:' .. due, ...) end)
end

-- 5. The watermark, and the number of events. Generations of older versions have no such number.
redis.call('HSET', meta, wfield, next_watermark)
if state[5] then redis.call('HINCRBY', meta, 'events', batch.n) end
if state[6] and tonumber(next_watermark) >= tonumber(state[6]) then
  redis.call('HDEL', meta, target_field)
  complete_if_whole()
end
local answer = {'ok'}
for kind, n in pairs(overflow) do
  redis.call('HINCRBY', meta, 'over:' .. kind, n)
  answer[#answer + 1] = kind
  answer[#answer + 1] = n
end
return answer
