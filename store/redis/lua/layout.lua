-- Layout of the counters, included in every script.
-- A record is a hash, one per group (action, treatment, channel, customer) and generation:
--   s           msgpack {due, code, weekly, monthly, alltime, code, weekly, ...}: the windows
--   <block>     msgpack {code * BLOCK_DAYS + day % BLOCK_DAYS, count, ...}: the tiles of the
--               BLOCK_DAYS days from <block> * BLOCK_DAYS on. Only the last TILE_DAYS days count
--   -<offer>    customers only: the last day, up to today, of an interaction with the offer
--   p<day>:<offer>  the same for a day after today: of an event a few minutes ahead of midnight, or
--               of one that a worker counts before it rolls to that day
-- A code is the index of the outcome type in meta's `types`; <offer> is the offer's number in the
-- hash `offers`. `due` is the next window day on which the windows of the record change
-- without an event (0 = none); the record is then a member of the set due:<due>.
local TILE_DAYS, BLOCK_DAYS = 31, 4
-- Indexes in `s`: the first code, the offsets of the windows after a code, and the step to the next.
local FIRST, WEEKLY, MONTHLY, ALLTIME, STEP = 2, 1, 2, 3, 4

local function block_of(day) return math.floor(day / BLOCK_DAYS) end

-- Returns the day of an entry of a block.
local function day_of(block, code_and_day) return block * BLOCK_DAYS + code_and_day % BLOCK_DAYS end

local function code_of(code_and_day) return math.floor(code_and_day / BLOCK_DAYS) end

local function total_of(s, window)
  local n = 0
  for i = FIRST + window, #s, STEP do n = n + s[i] end
  return n
end
