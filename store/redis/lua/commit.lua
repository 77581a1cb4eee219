-- Commits one batch of one partition for one tenant: counter deltas, identities and the watermark
-- they bring, all or nothing.
-- ARGV: 1 generation, 2 window day, 3 watermark field, 4 watermark believed ('' = none),
--       5 next watermark, 6 build token ('' = the generation is the active one),
--       7 slots of identities to look back,
--       8 msgpack {types, a, t, c, u}:
--         types  outcome type keys; the deltas name them by place, from 0
--         a,t,c  flat {id, deltas, ...}; deltas flat {day, type, count, ...} in order of day
--         u      flat {id, deltas, offers, ...}; offers flat {offer id, day, ...}
--       9 most groups of a grouping; those that come after are counted as one, OTHER
--      10.. slot, identities end to end, ...
-- Answers {'ok', grouping letter, interactions counted as OTHER, ...},
-- {'fenced', generation, day, watermark} or {'duplicates', place among the identities, ...};
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

-- 1. Identities. A slot of them is one hash: bucket -> identities, ID_BYTES each, end to end. It has
-- one bucket for every LOAD identities and grows by linear hashing, a bucket at a time; meta's
-- d:<slot> is how many identities it holds.
local LOAD, ID_BYTES = 12, 8
local look_back = tonumber(ARGV[7])

-- unpack() takes a few thousand values at most, so long lists go in parts.
local PART = 2000
local function in_parts(list, first, call)
  for i = first, #list, PART do call(unpack(list, i, math.min(i + PART - 1, #list))) end
end

local function slot_key(slot) return home .. 'ids:' .. slot end

local function buckets_for(identities) return math.max(1, math.ceil(identities / LOAD)) end

local function half_of(buckets)
  local half = 1
  while half * 2 <= buckets do half = half * 2 end
  return half
end

local function hash_of(identity)
  local b1, b2, b3, b4 = string.byte(identity, 1, 4)
  return b1 + b2 * 256 + b3 * 65536 + b4 * 16777216
end

local function bucket_of(hash, buckets, half)
  local b = hash % (half * 2)
  return b < buckets and b or b - half
end

-- Adds to `held` what the slot's `wanted` buckets hold.
local function load(slot, wanted, held)
  local key = slot_key(slot)
  for i = 1, #wanted, PART do
    local last = math.min(i + PART - 1, #wanted)
    local found = redis.call('HMGET', key, unpack(wanted, i, last))
    for j = i, last do held[wanted[j]] = found[j - i + 1] or '' end
  end
end

local function is_in(held, identity)
  local at = string.find(held, identity, 1, true)
  while at and at % ID_BYTES ~= 1 do at = string.find(held, identity, at + 1, true) end
  return at ~= nil
end

local slots = {} -- slot -> {identities, the buckets known so far}
local function slot_state(slot)
  if not slots[slot] then
    slots[slot] = {tonumber(redis.call('HGET', meta, 'd:' .. slot) or 0), {}}
  end
  return slots[slot]
end

local arrived = {} -- {slot, {identity, ...}, {hash, ...}} of the batch
for k = 10, #ARGV, 2 do
  local packed, ids, hashes = ARGV[k + 1], {}, {}
  for i = 1, #packed / ID_BYTES do
    ids[i] = string.sub(packed, i * ID_BYTES - ID_BYTES + 1, i * ID_BYTES)
    hashes[i] = hash_of(ids[i])
  end
  arrived[#arrived + 1] = {tonumber(ARGV[k]), ids, hashes}
end

local duplicates, place = {}, 0
for _, group in ipairs(arrived) do
  local slot, ids, hashes = group[1], group[2], group[3]
  for seen_slot = slot - look_back, slot + look_back do
    local n, held = unpack(slot_state(seen_slot))
    if n > 0 then
      local buckets = buckets_for(n)
      local half, wanted = half_of(buckets), {}
      for i = 1, #ids do wanted[i] = bucket_of(hashes[i], buckets, half) end
      load(seen_slot, wanted, held)
      for i = 1, #ids do
        if is_in(held[wanted[i]], ids[i]) then duplicates[#duplicates + 1] = place + i - 1 end
      end
    end
  end
  place = place + #ids
end
if #duplicates > 0 then return {'duplicates', unpack(duplicates)} end

-- Moves what belongs there from the bucket it is split from to the new bucket `b`.
local function split(held, b)
  local half = half_of(b)
  local from, stay, move = held[b - half], {}, {}
  for i = 1, #from, ID_BYTES do
    local identity = string.sub(from, i, i + ID_BYTES - 1)
    local list = hash_of(identity) % (half * 2) == b and move or stay
    list[#list + 1] = identity
  end
  held[b - half], held[b] = table.concat(stay), table.concat(move)
  return b - half
end

for _, group in ipairs(arrived) do
  local slot, ids, hashes = group[1], group[2], group[3]
  local state = slot_state(slot)
  local n, held = state[1], state[2]
  local before, after = buckets_for(n), buckets_for(n + #ids)
  local wanted, changed = {}, {}
  local function want(b)
    if b < before and not held[b] then wanted[#wanted + 1] = b end
  end
  if n == 0 then want(0) end
  for b = before, after - 1 do want(b - half_of(b)) end
  load(slot, wanted, held)
  for b = before, after - 1 do changed[split(held, b)], changed[b] = true, true end
  local half = half_of(after)
  for i = 1, #ids do
    local b = bucket_of(hashes[i], after, half)
    held[b], changed[b] = held[b] .. ids[i], true
  end
  local set = {}
  for b in pairs(changed) do
    set[#set + 1] = b
    set[#set + 1] = held[b]
  end
  in_parts(set, 1, function(...) redis.call('HSET', slot_key(slot), ...) end)
  state[1] = n + #ids
  redis.call('HSET', meta, 'd:' .. slot, n + #ids)
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
local ranks, dues = {a = {}, t = {}, c = {}, u = {}}, {}
local function rank(kind, period, id, window)
  local list = ranks[kind][period]
  if not list then
    list = {key = rank_of(kind, period), n = 0}
    ranks[kind][period] = list
  end
  local n = list.n
  list[n + 1], list[n + 2], list.n = -sum(window), id, n + 2
end

local function seen_field(offer, day)
  return (day > today and 'p' .. day .. ':' or 'o') .. offer
end

-- Groups beyond the limit. Whoever reads a grouping that has some is told so: see `over:` in meta.
local OTHER, groups_max, NONE = '__other__', tonumber(ARGV[9]), {}
local sizes, over, others = {}, {}, {a = {}, t = {}, c = {}, u = {}}
local function is_full(kind)
  local size = sizes[kind] or redis.call('ZCARD', rank_of(kind, 'a'))
  local full = size >= groups_max
  sizes[kind] = full and size or size + 1
  return full
end

-- Used again for each record: to make tables and let them grow is much of what a record costs.
local ask, set = {'HMGET'}, {'HSET'}

local function count(kind, id, deltas, offers)
  local key = home .. kind .. ':' .. id
  local asked, last = 3, nil
  ask[2], ask[3] = key, 's'
  for i = 1, #deltas, 3 do
    local day = deltas[i]
    if day ~= last and day > today - TILE_DAYS then
      asked = asked + 1
      ask[asked] = day
    end
    last = day
  end
  local offers_at = asked - 1
  for i = 1, #offers, 2 do
    asked = asked + 1
    ask[asked] = seen_field(offers[i], offers[i + 1])
  end
  local got = redis.call(unpack(ask, 1, asked))
  if not got[1] and id ~= OTHER and is_full(kind) then
    others[kind][id] = true
    for i = 3, #deltas, 3 do over[kind] = (over[kind] or 0) + deltas[i] end
    return count(kind, OTHER, deltas, NONE)
  end
  local s = got[1] and cmsgpack.unpack(got[1]) or {0, {}, {}, {}}
  if s[1] > 0 and s[1] <= today then
    s = refresh(kind, id, key, today)
    got = redis.call(unpack(ask, 1, asked))
  end

  set[2] = key
  local n_set, w, m, due = 2, false, false, s[1]
  local tile, tile_n, i = nil, 0, 1
  while i <= #deltas do
    local day = deltas[i]
    local kept = day > today - TILE_DAYS
    if kept then
      tile_n = tile_n + 1
      tile = got[tile_n + 1] and cmsgpack.unpack(got[tile_n + 1]) or {}
      local next_due = due_of(day, today)
      if due == 0 or next_due < due then due = next_due end
    end
    local monthly = kept and day <= today
    local weekly = monthly and day > today - 7
    repeat
      local code, n = codes[deltas[i + 1]], deltas[i + 2]
      if kept then add(tile, code, n) end
      if weekly then add(s[2], code, n) end
      if monthly then add(s[3], code, n) end
      add(s[4], code, n)
      i = i + 3
    until deltas[i] ~= day
    if kept then
      set[n_set + 1], set[n_set + 2], n_set = day, cmsgpack.pack(tile), n_set + 2
      if day >= today then rank(kind, 'd' .. day, id, tile) end
    end
    w, m = w or weekly, m or monthly
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
  local latest = {} -- an offer may be in the batch more than once, its days in any order
  for j = 1, #offers, 2 do
    local at, day = offers_at + (j - 1) / 2, offers[j + 1]
    local name, seen = ask[at + 2], got[at]
    if day > (latest[name] or seen and tonumber(seen) or -1) then latest[name] = day end
  end
  for name, day in pairs(latest) do
    set[n_set + 1], set[n_set + 2], n_set = name, day, n_set + 2
  end
  redis.call(unpack(set, 1, n_set))
  if w then rank(kind, 'w', id, s[2]) end
  if m then rank(kind, 'm', id, s[3]) end
  rank(kind, 'a', id, s[4])
end

for _, kind in ipairs({'a', 't', 'c'}) do
  local list = batch[kind]
  for i = 1, #list, 2 do count(kind, list[i], list[i + 1], NONE) end
end
for i = 1, #batch.u, 3 do
  local offers = batch.u[i + 2]
  if over.a then
    for j = 1, #offers, 2 do
      if others.a[offers[j]] then offers[j] = OTHER end
    end
  end
  count('u', batch.u[i], batch.u[i + 1], offers)
end

for _, of_kind in pairs(ranks) do
  for _, list in pairs(of_kind) do
    in_parts(list, 1, function(...) redis.call('ZADD', list.key, ...) end)
  end
end
for due, list in pairs(dues) do
  in_parts(list, 1, function(...) redis.call('SADD', home .. 'due:' .. due, ...) end)
end

-- 4. The watermark that all this brings.
redis.call('HSET', meta, wfield, next_watermark)
local answer = {'ok'}
for kind, n in pairs(over) do
  redis.call('HINCRBY', meta, 'over:' .. kind, n)
  answer[#answer + 1] = kind
  answer[#answer + 1] = n
end
return answer
