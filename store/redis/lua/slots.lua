-- Slots of identities. Included after parts.lua. A slot is one hash: bucket -> concatenated entries. It has one bucket per LOAD
-- identities and grows by linear hashing, one bucket at a time. There are two forms:
--   own:<slot>  entries of an identity (ID_BYTES) and its owner, a hash of the place of the record that was
--               counted; meta's o:<slot> is their number, n:<slot> exists if owners are not known any more
--   ids:<slot>  identities alone, as older versions wrote them; meta's d:<slot> is their number
local LOAD, ID_BYTES, ENTRY_BYTES, NO_OWNER = 12, 8, 12, string.rep('\0', 4)
local byte, find, sub = string.byte, string.find, string.sub

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

-- Returns where the entry of an identity begins in a bucket, or nil.
local function entry_at(bucket, identity, entry_bytes)
  local at = find(bucket, identity, 1, true)
  while at and at % entry_bytes ~= 1 do at = find(bucket, identity, at + 1, true) end
  return at
end

-- Reads what is given as slot, concatenated entries, ... in the arguments from `first` on. Returns
-- {{slot, concatenated entries, {identity, ...}, {hash, ...}}, ...}.
local function arrived_from(arguments, first)
  local groups = {}
  for k = first, #arguments, 2 do
    local packed, ids, hashes = arguments[k + 1], {}, {}
    for i = 1, #packed / ENTRY_BYTES do
      local at = (i - 1) * ENTRY_BYTES
      local id = sub(packed, at + 1, at + ID_BYTES)
      ids[i], hashes[i] = id, hash_of(id)
    end
    groups[#groups + 1] = {tonumber(arguments[k]), packed, ids, hashes}
  end
  return groups
end

-- Returns two tables, slot -> number of identities, of the slots that are searched for the groups: with
-- owners, and without.
local function sizes_for(groups, look_back, meta)
  local fields, slots, owned, old = {}, {}, {}, {}
  for _, group in ipairs(groups) do
    for slot = group[1] - look_back, group[1] + look_back do
      if not owned[slot] then
        owned[slot], old[slot] = 0, 0
        local n = #slots
        slots[n + 1], fields[2 * n + 1], fields[2 * n + 2] = slot, 'o:' .. slot, 'd:' .. slot
      end
    end
  end
  local sizes = values_of(meta, fields)
  for i, slot in ipairs(slots) do
    owned[slot], old[slot] = tonumber(sizes[2 * i - 1] or 0), tonumber(sizes[2 * i] or 0)
  end
  return owned, old
end

-- Searches one slot for the identities of a group. Calls `on_found(index in the group, owner)`, owner ''
-- if it is not known. Returns the index of each identity's bucket and the buckets.
local function search(key, size, group, entry_bytes, on_found)
  local packed, ids = group[2], group[3]
  local indexes = bucket_indexes(group[4], buckets_for(size))
  local found = values_of(key, indexes)
  for i = 1, #ids do
    local bucket = found[i]
    local at = bucket and entry_at(bucket, ids[i], entry_bytes)
    if at then on_found(i, sub(bucket, at + ID_BYTES, at + entry_bytes - 1)) end
  end
  return indexes, found
end

-- Returns whether a copy at the place with the second owner hash is known to be another record than the
-- one that was counted, which has the first.
local function is_other(owner, own, slot, meta)
  return owner ~= '' and owner ~= NO_OWNER and owner ~= own
    and redis.call('HEXISTS', meta, 'n:' .. slot) == 0
end
