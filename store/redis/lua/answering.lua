-- The active generation, and why it cannot answer. Included by the scripts that read groups of one day.
-- ARGV: 1 grouping code, 2 the reader's day, 3 time zone, 4 the shards that the reader expects, as in read.lua
local base = string.sub(KEYS[1], 1, -7)
local kind, today = ARGV[1], tonumber(ARGV[2])
-- Prefix of the generation's keys; msgpack of its outcome types; events that are pending: set by `refusal`.
local home, types, pending

-- Returns nil, or what the script answers instead: {'sharded', shards, generation} if the reader expects
-- others, or {reason}. The reasons are those of read.lua.
local function refusal()
  local active = redis.call('GET', KEYS[1])
  if not active then return {'no_generation'} end
  home = base .. active .. ':'
  together(home .. 'meta')
  local complete, day, rolled, timezone, shards, over, over_actions, over_offers
  complete, day, rolled, timezone, shards, over, over_actions, over_offers, types, pending = unpack(redis.call(
    'HMGET', home .. 'meta', 'complete', 'day', 'rolled', 'timezone', 'shards', 'over:' .. kind, 'over:a', 'over:o',
    'types', 'pending'))
  if ARGV[4] ~= '' and ARGV[4] ~= (shards and shards .. '@' .. active or '1') then
    return {'sharded', shards or '1', active}
  end
  if complete ~= '1' then return {'not_complete'} end
  if over or kind == 'u' and (over_actions or over_offers) then return {'capped'} end
  if timezone ~= ARGV[3] then return {'other_timezone'} end
  if day ~= ARGV[2] then return {'other_day'} end
  if rolled ~= day then return {'rolling'} end
end

-- Returns whether a group without a record is listed: then its record is lost, and not unknown.
local function is_lost(id)
  local rank = home .. 'r:' .. kind .. ':a'
  together(rank)
  return redis.call('ZMSCORE', rank, id)[1] ~= false
end

-- Returns an answer: catalog version, events that are pending, msgpack types, and what was found.
local function answer_of(found)
  together(base .. 'catalog')
  local version = redis.call('GET', base .. 'catalog')
  return {'ok', version or '0', kind ~= 'u' and pending or '0', types or '', found}
end
