-- Commands of many values, in parts.
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

-- Raises an error unless all keys can be used here, before anything is written: see layout.lua.
local function touch(keys) in_parts(keys, function(...) redis.call('EXISTS', KEYS[1], ...) end) end
