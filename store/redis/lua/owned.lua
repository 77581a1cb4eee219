-- Tells which identities are owned by other records: see slots.lua. Changes nothing.
-- ARGV: 1 number of slots before and after an identity's own slot that are searched for it,
--       2.. slot, concatenated identities with the owners that the records would be, ...
-- Returns the indexes of the identities, from 0, whose owner in the active generation is known and another.
local base = sub(KEYS[1], 1, -7)
local active = redis.call('GET', KEYS[1])
if not active then return {} end
local home = base .. active .. ':'
local meta, look_back = home .. 'meta', tonumber(ARGV[1])
local arrived, others, asked = arrived_from(ARGV, 2), {}, 0
local sizes = sizes_for(arrived, look_back, meta)
for _, group in ipairs(arrived) do
  for slot = group[1] - look_back, group[1] + look_back do
    if sizes[slot] > 0 then
      search(home .. 'own:' .. slot, sizes[slot], group, ENTRY_BYTES, function(i, owner)
        local own = sub(group[2], i * ENTRY_BYTES - ENTRY_BYTES + ID_BYTES + 1, i * ENTRY_BYTES)
        if is_other(owner, own, slot, meta) then others[#others + 1] = asked + i - 1 end
      end)
    end
  end
  asked = asked + #group[3]
end
return others
