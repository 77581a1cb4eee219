-- Answers one group in all periods, from the active generation: one call, one snapshot.
-- ARGV: 1 to 4: see answering.lua, 5 id
-- Returns {'ok', catalog version, pending, msgpack types, {`s` of the record, block of tiles with the day (false =
-- none), distinct offers of the day, the week, the month and all time (customers only)}}, where the list is empty
-- if the group is unknown; or what `refusal` returns, or {reason}. A customer takes as long as its offers are
-- many: 2,000 (OFFERS_PER_CUSTOMER_MAX) less than 2 ms.
local refused = refusal()
if refused then return refused end
local id = ARGV[5]
local key, block = home .. kind .. ':' .. id, tostring(block_of(today))
together(key)

if kind ~= 'u' then
  local got = redis.call('HMGET', key, 's', block)
  if got[1] then return answer_of(got) end
else
  local fields = redis.call('HGETALL', key)
  -- Offer -> its last day up to today, 0 if it has later ones only.
  local s, tiles, last = nil, false, {}
  for i = 1, #fields, 2 do
    local name, value = fields[i], fields[i + 1]
    local first = string.byte(name)
    if name == 's' then
      s = value
    elseif name == block then
      tiles = value
    elseif first == 45 or first == 112 then -- '-', 'p'
      local day, before = tonumber(value), first == 45 and 1 or string.find(name, ':', 1, true)
      local offer = string.sub(name, before + 1)
      last[offer] = math.max(last[offer] or 0, day <= today and day or 0)
    end
  end
  if s then
    local daily, weekly, monthly, all = 0, 0, 0, 0
    for _, day in pairs(last) do
      all = all + 1
      if day > today - TILE_DAYS then monthly = monthly + 1 end
      if day > today - 7 then weekly = weekly + 1 end
      if day == today then daily = daily + 1 end
    end
    return answer_of({s, tiles, daily, weekly, monthly, all})
  end
end
if is_lost(id) then return {'lost_record'} end
return answer_of({})
