-- Answers the interactions per day and outcome type of one group, or of all groups of a grouping, from the tiles of
-- the active generation: one call, one snapshot.
-- ARGV: 1 to 4: see answering.lua, 5 first day (the last one is the reader's), 6 id, or nothing: the sum of all groups
-- Returns {'ok', catalog version, pending, msgpack types, {block, ...}}, one block as in a record for every
-- BLOCK_DAYS days, msgpack; without blocks if the group is unknown; or what `refusal` returns, or {reason}.
-- A sum reads the tiles of every group, and blocks Redis meanwhile: GROUP_COST and every block of a group count
-- against SUMMED_MAX, which takes 10 ms at most.
local GROUP_COST, SUMMED_MAX = 2, 4000
local refused = refusal()
if refused then return refused end
local from, id = tonumber(ARGV[5]), ARGV[6]

local ask, sums = {'HMGET', '', 's'}, {}
for block = block_of(from), block_of(today) do
  ask[#ask + 1] = block
  sums[#sums + 1] = {}
end

-- Adds the tiles of a group to `sums`. Returns whether it has a record.
local function add(name)
  local key = home .. kind .. ':' .. name
  ask[2] = key
  local got = redis.call(unpack(ask))
  if not got[1] then return false end
  for i = 2, #got do
    if got[i] then
      local tile, sum = cmsgpack.unpack(got[i]), sums[i - 1]
      for j = 1, #tile, 2 do
        local code_and_day = tile[j]
        sum[code_and_day] = (sum[code_and_day] or 0) + tile[j + 1]
      end
    end
  end
  return true
end

if id then
  together(home .. kind .. ':' .. id)
  if not add(id) then
    if is_lost(id) then return {'lost_record'} end
    return answer_of({})
  end
else
  -- All groups with interactions in the window are in this rank.
  local rank = home .. 'r:' .. kind .. ':' .. (today - from < 7 and 'w' or 'm')
  together(rank)
  if redis.call('ZCARD', rank) * (GROUP_COST + #sums) > SUMMED_MAX then return {'too_many_groups'} end
  for _, name in ipairs(redis.call('ZRANGE', rank, 0, -1)) do
    if not add(name) then return {'lost_record'} end
  end
end
for i, sum in ipairs(sums) do
  local flat = {}
  for code_and_day, n in pairs(sum) do flat[#flat + 1], flat[#flat + 2] = code_and_day, n end
  sums[i] = cmsgpack.pack(flat)
end
return answer_of(sums)
