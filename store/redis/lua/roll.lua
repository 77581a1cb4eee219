-- Moves the window day of a generation to a later day, and rolls a bounded number of the records
-- that become due. The due sets hold the progress: a record leaves its set in the script call that
-- rolls it, so any worker can continue where another stopped. One that cannot be rolled damages the
-- generation.
-- ARGV: 1 generation, 2 build token ('' = active), 3 target day, 4 maximum records to roll,
--       5 oldest slot of identities that is still used
-- Returns {'ok', day, 1 if nothing is left to roll else 0, records rolled} or
-- {'fenced', generation}.
local active = redis.call('GET', KEYS[1])
local state = redis.call('HMGET', meta, 'day', 'rolled', 'building', 'unranked')
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

ranked_in.u = ranked_of(state[4])
local left, done = tonumber(ARGV[4]), 0

-- Delete the slots of identities that are older than the horizon. Not while the generation has yet to
-- reach the watermarks of the one before (fields t:*): records that were counted long ago are read
-- again, and their copies must be recognized.
local old, is_behind = {}, false
for _, field in ipairs(redis.call('HKEYS', meta)) do
  local slot = tonumber(string.match(field, '^[do]:(-?%d+)$') or '')
  if slot and slot < tonumber(ARGV[5]) then old[#old + 1] = slot end
  is_behind = is_behind or string.sub(field, 1, 2) == 't:'
end
for _, slot in ipairs(is_behind and {} or old) do
  redis.call('UNLINK', home .. 'ids:' .. slot, home .. 'own:' .. slot)
  redis.call('HDEL', meta, 'd:' .. slot, 'o:' .. slot, 'n:' .. slot)
end

while rolled < day do
  local due = home .. 'due:' .. (rolled + 1)
  local members = left > 0 and redis.call('SRANDMEMBER', due, left) or {}
  local keys = {meta, due}
  for _, member in ipairs(members) do keys[#keys + 1] = home .. member end
  for next_due = day + 1, day + TILE_DAYS do keys[#keys + 1] = home .. 'due:' .. next_due end
  for _, kind in ipairs(KINDS) do
    keys[#keys + 1], keys[#keys + 2] = rank_of(kind, 'w'), rank_of(kind, 'm')
  end
  touch(keys)
  for _, member in ipairs(members) do
    local kind, id = string.sub(member, 1, 1), string.sub(member, 3)
    -- A record that cannot be rolled is left as it is: the others of the tenant are rolled.
    write_or_damage(function() refresh(kind, id, home .. member, day) end)
  end
  in_parts(members, function(...) redis.call('SREM', due, ...) end)
  done = done + #members
  left = left - #members
  if redis.call('EXISTS', due) == 1 then break end -- the maximum is reached
  rolled = rolled + 1
end
redis.call('HSET', meta, 'rolled', rolled)
return {'ok', day, rolled == day and 1 or 0, done}
