-- Commits one batch of one partition for one tenant: counter deltas, identities and the next
-- watermark, in one atomic step. The deltas of actions, treatments and channels may be kept as a part
-- of the list `pending`, for fold.lua to add later: a sum of many batches changes each group once.
-- ARGV: 1 generation, 2 window day, 3 watermark field, 4 expected watermark ('' = none),
--       5 next watermark, 6 build token ('' = the generation is the active one),
--       7 number of slots before and after an identity's own slot that are searched for it,
--       8 msgpack {types, n, u}:
--         types  outcome type keys; the deltas refer to them by index from 0
--         n      events in the batch
--         u      customers: flat {id, deltas, offers, ...}; deltas flat {day, type, count, ...} in order
--                of day, offers flat {offer id, day, ...}
--       9 msgpack {types, n, a, t, c}: actions, treatments, channels: flat {id, deltas, ...}; '' = none
--       10 maximum groups of a grouping; further groups are counted as one, OTHER. A number with a `+`
--         after it: keep 9 as pending
--       11 maximum distinct offers of a customer; further offers are remembered as one
--       12.. slot, concatenated identities with their owners (see slots.lua), ...
-- Returns {'ok', events that are pending, grouping code, interactions counted as OTHER, 'o', times that an
--         offer was not remembered, ...},
-- {'damaged', reason}: it failed half-way, so the generation is not complete any more,
-- {'fenced', generation, day, watermark} or {'duplicates', index of the identity from 0, ...}: -1 - index
-- if its owner is this record, or is not known. The last two have changed nothing, like an error.
local token, wfield, expected_offset, next_watermark = ARGV[6], ARGV[3], ARGV[4], ARGV[5]
local target_field = 't' .. string.sub(wfield, 2)
local state = redis.call(
  'HMGET', meta, 'day', wfield, 'building', 'types', 'events', target_field, 'pending', 'format', 'unranked')
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
today, ranked_in.u = tonumber(state[1]), ranked_of(state[9])
local batch = cmsgpack.unpack(ARGV[8])
groups_max, offers_max = tonumber(string.match(ARGV[10], '%d+')), tonumber(ARGV[11])
-- The order of the parts decides which group is one too many, so they are added in order.
local light, keeps = ARGV[9], string.sub(ARGV[10], -1) == '+' or tonumber(state[7] or 0) > 0

-- 1. Identities: see slots.lua. New ones are stored with their owners.
local look_back = tonumber(ARGV[7])
local arrived = arrived_from(ARGV, 12)
local sizes_of_slots, sizes_of_old = sizes_for(arrived, look_back, meta)
-- Records that were counted may be gone, and others be in their places.
local places_changed
if expected_offset == '' then
  places_changed = is_new_topic(wfield)
else
  places_changed = tonumber(next_watermark) < tonumber(expected_offset)
end
local duplicates, counted = {}, 0
for _, group in ipairs(arrived) do
  local slot, packed, held = group[1], group[2], {}
  group[5] = held -- bucket -> entries, of the buckets that were read of the slot
  for seen_slot = slot - look_back, slot + look_back do
    local function on_found(i, owner)
      local own = sub(packed, i * ENTRY_BYTES - ENTRY_BYTES + ID_BYTES + 1, i * ENTRY_BYTES)
      local index = counted + i - 1
      local other = not places_changed and is_other(owner, own, seen_slot, meta)
      duplicates[#duplicates + 1] = other and index or -1 - index
    end
    if sizes_of_old[seen_slot] > 0 then
      search(home .. 'ids:' .. seen_slot, sizes_of_old[seen_slot], group, ID_BYTES, on_found)
    end
    if sizes_of_slots[seen_slot] > 0 then
      local indexes, found =
        search(home .. 'own:' .. seen_slot, sizes_of_slots[seen_slot], group, ENTRY_BYTES, on_found)
      if seen_slot == slot then
        for i = 1, #indexes do held[indexes[i]] = found[i] or '' end
      end
    end
  end
  counted = counted + #group[3]
end
if #duplicates > 0 then return {'duplicates', unpack(duplicates)} end

-- Nothing is written before all keys were touched.
local kinds, keys = {'a', 't', 'c', 'u'}, {meta, home .. 'offers', home .. 'pending'}
local parts = light ~= '' and not keeps and cmsgpack.unpack(light)
if not parts then kinds = {'u'} end
for _, group in ipairs(arrived) do keys[#keys + 1] = home .. 'own:' .. group[1] end
local days = {}
for _, kind in ipairs(kinds) do
  local list, step = kind == 'u' and batch.u or parts[kind], kind == 'u' and 3 or 2
  add_days(days, list, step)
  for i = 1, #list, step do keys[#keys + 1] = home .. kind .. ':' .. list[i] end
end
for _, key in ipairs(index_keys(kinds, days)) do keys[#keys + 1] = key end
touch(keys)

-- Splits a bucket: moves the entries that belong to the new bucket `b` out of it.
local function split(held, b)
  local half = half_of(b)
  local from, stay, move = held[b - half], {}, {}
  for i = 1, #from, ENTRY_BYTES do
    local entry = sub(from, i, i + ENTRY_BYTES - 1)
    local list = hash_of(entry) % (half * 2) == b and move or stay
    list[#list + 1] = entry
  end
  held[b - half], held[b] = table.concat(stay), table.concat(move)
  return b - half
end

-- 2. Actions, treatments and channels that are kept. The first write: where a new right of an ACL is
-- lacking, nothing has changed.
local pending = 0
if light ~= '' and not parts then
  redis.call('RPUSH', home .. 'pending', light)
  pending = redis.call('HINCRBY', meta, 'pending', batch.n)
end
if state[8] ~= FORMAT and batch.n > 0 then outdate() end

-- 3. The other writes: identities first.
local failure = write_or_damage(function()
  for _, group in ipairs(arrived) do
    local slot, packed, ids, hashes, held = unpack(group)
    local n, key = sizes_of_slots[slot], home .. 'own:' .. slot
    local before, after = buckets_for(n), buckets_for(n + #ids)
    local unseen, changed = {}, {}
    if n == 0 then held[0] = '' end
    for b = before, after - 1 do
      local from = b - half_of(b)
      if from < before and not held[from] then unseen[#unseen + 1] = from end
    end
    for i, bucket in ipairs(values_of(key, unseen)) do held[unseen[i]] = bucket or '' end
    for b = before, after - 1 do changed[split(held, b)], changed[b] = true, true end
    for i, b in ipairs(bucket_indexes(hashes, after)) do
      held[b] = held[b] .. sub(packed, i * ENTRY_BYTES - ENTRY_BYTES + 1, i * ENTRY_BYTES)
      changed[b] = true
    end
    local set, at = {}, 0
    for b in pairs(changed) do
      set[at + 1], set[at + 2], at = b, held[b], at + 2
    end
    in_parts(set, function(...) redis.call('HSET', key, ...) end)
    sizes_of_slots[slot] = n + #ids
    redis.call('HSET', meta, 'o:' .. slot, n + #ids)
  end
  if places_changed then disown() end

  codes = codes_of(batch.types, state[4])
  if parts then count_groups(parts) end

  -- Customers, once their offers have numbers, which are shorter than offer ids. An offer that is new
  -- here is a new action, perhaps one too many.
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
  local n_offers, numbered, too_many = redis.call('HLEN', offers_key), {}, {}
  local function next_number(offer)
    n_offers = n_offers + 1
    numbered[#numbered + 1], numbered[#numbered + 2] = offer, n_offers
    return n_offers
  end
  for i, number in ipairs(values_of(offers_key, unknown)) do
    local offer = unknown[i]
    if not number and keeps and n_offers >= groups_max and offer ~= OTHER then
      too_many[#too_many + 1] = offer
    else
      number_of[offer] = number or next_number(offer)
    end
  end
  if #too_many > 0 then
    local number = number_of[OTHER] or redis.call('HGET', offers_key, OTHER) or next_number(OTHER)
    for _, offer in ipairs(too_many) do number_of[offer] = number end
    redis.call('HINCRBY', meta, 'over:a', 0) -- the fold will count them as OTHER
  end
  in_parts(numbered, function(...) redis.call('HSET', offers_key, ...) end)
  for i = 1, #batch.u, 3 do count('u', batch.u[i], batch.u[i + 1], batch.u[i + 2]) end
  write_ranks_and_dues()
end)

-- 4. The watermark, and the number of events. Generations of older versions have no such number. The
-- watermark moves also where the counts are damaged: history answers, and the other tenants go on.
-- A batch without events changes no answer; a pending one only those about customers.
if batch.n == 0 then
  redis.call('HSET', meta, wfield, next_watermark)
else
  local stamp = new_stamp(next_watermark)
  if parts then
    redis.call('HSET', meta, wfield, next_watermark, 'stamp_u', stamp, 'stamp', stamp)
  else
    redis.call('HSET', meta, wfield, next_watermark, 'stamp_u', stamp)
  end
end
if state[5] then redis.call('HINCRBY', meta, 'events', batch.n) end
if state[6] and tonumber(next_watermark) >= tonumber(state[6]) then
  redis.call('HDEL', meta, target_field)
  complete_if_whole()
end
if failure then return {'damaged', failure} end
local answer = {'ok', pending}
add_overflow(answer)
return answer
