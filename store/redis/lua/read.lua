-- Answers one question from the active generation: one call, one snapshot.
-- ARGV: 1 grouping letter, 2 period letter (d, w, m, a), 3 the asker's day, 4 time zone,
--       5 offset, 6 limit, 7 earliest day of the window ('' = none)
-- Answers {'ok', catalog version, msgpack types, groups, {id, ...}, {counts, ...}, {unique, ...}}
-- where counts are msgpack (a tile, or the record's `s` with all its windows), or {why not}.
local base = string.sub(KEYS[1], 1, -7)
local active = redis.call('GET', KEYS[1])
if not active then return {'no_generation'} end
local home = base .. active .. ':'
local meta = redis.call('HMGET', home .. 'meta', 'complete', 'day', 'rolled', 'timezone', 'types')
local kind, period, today = ARGV[1], ARGV[2], ARGV[3]
if meta[1] ~= '1' then return {'not_complete'} end
if meta[4] ~= ARGV[4] then return {'other_timezone'} end
if period ~= 'a' and meta[2] ~= today then return {'other_day'} end
if (period == 'w' or period == 'm') and meta[3] ~= meta[2] then return {'rolling'} end

local field = 's'
if period == 'd' then
  field = today
  period = 'd' .. today
end
local rank = home .. 'r:' .. kind .. ':' .. period
local offset, limit = tonumber(ARGV[5]), tonumber(ARGV[6])
local ids = redis.call('ZRANGE', rank, ARGV[5], string.format('%d', offset + limit - 1))
local counts, uniques = {}, {}
local from, to = tonumber(ARGV[7]), tonumber(today)
for i, id in ipairs(ids) do
  local key = home .. kind .. ':' .. id
  if kind == 'u' then
    local fields = redis.call('HGETALL', key)
    local seen, n = {}, 0
    for j = 1, #fields, 2 do
      local name = fields[j]
      local first = string.byte(name)
      if name == field then
        counts[i] = fields[j + 1]
      elseif (first == 111 or first == 112) and name ~= 's' then -- 'o', 'p'
        local day = tonumber(fields[j + 1])
        if not from or (day >= from and day <= to) then
          local offer = string.sub(name, 2)
          if not seen[offer] then
            seen[offer] = true
            n = n + 1
          end
        end
      end
    end
    uniques[i] = n
  else
    counts[i] = redis.call('HGET', key, field)
  end
end
local version = redis.call('GET', base .. 'catalog')
return {'ok', version or '0', meta[5] or '', redis.call('ZCARD', rank), ids, counts, uniques}
