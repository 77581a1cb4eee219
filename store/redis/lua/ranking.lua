-- Included after parts.lua by the scripts that drop ranks of customers: rank and unrank.

-- Returns the codes of `codes` that are in `others`, and those that are not.
local function split_codes(codes, others)
  local both, rest = '', ''
  for code in string.gmatch(codes, '.') do
    if string.find(others, code, 1, true) then both = both .. code else rest = rest .. code end
  end
  return both, rest
end

-- Deletes the ranks of customers in the periods with these codes.
local function drop_ranks(codes, today)
  local keys = {}
  for code in string.gmatch(codes, '.') do
    if code == 'd' then
      -- Days ahead: of events ahead of midnight, or that were counted before the window day moved.
      for day = today, today + 2 * TILE_DAYS do keys[#keys + 1] = rank_of('u', 'd' .. day) end
    else
      keys[#keys + 1] = rank_of('u', code)
    end
  end
  touch(keys)
  in_parts(keys, function(...) redis.call('UNLINK', ...) end)
end
