-- Answers the tiles of one group, or of all groups of a grouping, from the active generation: one call, one snapshot.
-- ARGV: 1 to 4: see answering.lua, 5 first day (the last one is the reader's), 6 id, or nothing: all groups
-- Returns {'ok', catalog version, pending, msgpack types, {{block, ...}, ...}}: for every BLOCK_DAYS days the blocks of
-- the groups that have one, as records do; without lists if the group is unknown; or what `refusal` returns, or {reason}.
-- The reader sums them: Redis runs nothing else meanwhile, and a sum here takes three times as long as the reads alone.
-- A group costs as much as GROUP_COST blocks, and READ_MAX blocks take 6 ms: 400 groups over 31 days, 857 for one.
local GROUP_COST, READ_MAX = 6, 6000
local refused = refusal()
if refused then return refused end
local from, id = tonumber(ARGV[5]), ARGV[6]

local ask, blocks = {'HMGET', '', 's'}, {}
for block = block_of(from), block_of(today) do
  ask[#ask + 1] = block
  blocks[#blocks + 1] = {}
end

-- Adds the blocks of a group. Returns whether it has a record.
local function add(name)
  ask[2] = home .. kind .. ':' .. name
  local got = redis.call(unpack(ask))
  if not got[1] then return false end
  for i, list in ipairs(blocks) do
    if got[i + 1] then list[#list + 1] = got[i + 1] end
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
  if redis.call('ZCARD', rank) * (GROUP_COST + #blocks) > READ_MAX then return {'too_many_groups'} end
  for _, name in ipairs(redis.call('ZRANGE', rank, 0, -1)) do
    if not add(name) then return {'lost_record'} end
  end
end
return answer_of(blocks)
