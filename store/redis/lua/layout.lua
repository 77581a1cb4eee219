-- Layout of the counters, included in every script.
-- A record is a hash, one per group (action, treatment, channel, customer) and generation:
--   s           msgpack {due, code, weekly, monthly, alltime, code, weekly, ...}: the windows
--   <block>     msgpack {code * BLOCK_DAYS + day % BLOCK_DAYS, count, ...}: the tiles of the
--               BLOCK_DAYS days from <block> * BLOCK_DAYS on. Only the last TILE_DAYS days count
--   -<offer>    customers only: the last day, up to today, of an interaction with the offer
--   p<day>:<offer>  the same for a day after today: of an event a few minutes ahead of midnight, or
--               of one that a worker counts before it rolls to that day
--   -0          customers only: some offers are not remembered, because there are too many
--   q           customers only: weekly, monthly, alltime, day, n (see Q_FORMAT): the numbers of distinct offers
--               in the windows of `s`, and on a day. '' = they have to be counted; so if there is no such field
-- A code is the index of the outcome type in meta's `types`; <offer> is the offer's number in the
-- hash `offers`. `due` is the next window day on which the windows of the record change
-- without an event (0 = none); the record is then a member of the set due:<due>.
local TILE_DAYS, BLOCK_DAYS = 31, 4
-- Indexes in `s`: the first code, the offsets of the windows after a code, and the step to the next.
local FIRST, WEEKLY, MONTHLY, ALLTIME, STEP = 2, 1, 2, 3, 4
-- Of `q`: five integers of three bytes, the lowest byte first.
local Q_FORMAT = '<I3I3I3I3I3'

local function block_of(day) return math.floor(day / BLOCK_DAYS) end

-- Returns the day of an entry of a block.
local function day_of(block, code_and_day) return block * BLOCK_DAYS + code_and_day % BLOCK_DAYS end

local function code_of(code_and_day) return math.floor(code_and_day / BLOCK_DAYS) end

local function total_of(s, window)
  local n = 0
  for i = FIRST + window, #s, STEP do n = n + s[i] end
  return n
end

-- Returns {period code -> true} of the ranks of customers that are kept. `unranked`, a field of meta, has the
-- codes of the others (d, w, m): see rank.lua. The rank of all time is always kept; it lists the customers.
local function ranked_of(unranked)
  local ranked = {a = true}
  for _, period in ipairs({'d', 'w', 'm'}) do
    ranked[period] = not string.find(unranked or '', period, 1, true)
  end
  return ranked
end

-- Raises an error unless both KEYS[1] and the key can be used here, or neither is anywhere. While a slot of
-- a cluster moves, some of its keys are on either node. The node that it leaves refuses a key that is not
-- there, and the node that it comes to a command of several keys of which one is not there yet; one alone
-- it would take for a missing one.
local function together(key) redis.call('EXISTS', KEYS[1], key) end
