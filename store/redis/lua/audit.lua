-- Reads groups of one grouping for an audit: one call, one snapshot, with the watermarks at which the
-- counts are the sum of the events below.
-- ARGV: 1 grouping code, 2 generation ('' = the active one), 3.. ids
-- Returns {generation, flat meta, {{flat record, ranks}, ...}}, {'pending', generation} while deltas of the
-- grouping are pending, or {} if the tenant has no generation.
-- A record is a flat list of its fields, empty if there is none; ranks are the negated totals of the
-- window day, the day after it, the week, the month and all time, false where the group is not ranked.
-- Stops once FIELDS_MAX fields are read, so it may answer fewer groups than asked, but at least one:
-- a customer of thousands of offers has as many fields.
local FIELDS_MAX = 6000
local base = string.sub(KEYS[1], 1, -7)

-- On the node that a slot comes to, a key that is not there yet would be a difference.
together(base .. 'last')
local gen = ARGV[2] ~= '' and ARGV[2] or redis.call('GET', KEYS[1])
if not gen then return {} end
local home = base .. gen .. ':'
local kind = ARGV[1]
together(home .. 'meta')
local meta = redis.call('HGETALL', home .. 'meta')
local today = tonumber(redis.call('HGET', home .. 'meta', 'day') or '')
if not today then return {} end
if kind ~= 'u' and redis.call('HEXISTS', home .. 'meta', 'pending') == 1 then return {'pending', gen} end
local records, fields, ids = {}, 0, {}
for i = 3, #ARGV do
  if fields > FIELDS_MAX then break end
  together(home .. kind .. ':' .. ARGV[i])
  local record = redis.call('HGETALL', home .. kind .. ':' .. ARGV[i])
  fields = fields + #record / 2
  records[#records + 1], ids[#ids + 1] = {record}, ARGV[i]
end
if #ids > 0 then
  for _, period in ipairs({'d' .. today, 'd' .. today + 1, 'w', 'm', 'a'}) do
    together(home .. 'r:' .. kind .. ':' .. period)
    local scores = redis.call('ZMSCORE', home .. 'r:' .. kind .. ':' .. period, unpack(ids))
    for i, score in ipairs(scores) do records[i][#records[i] + 1] = score end
  end
end
return {gen, meta, records}
