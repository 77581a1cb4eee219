-- How counters are laid out, for every script.
-- A record is a hash, one per group (action, treatment, channel, customer) and generation:
--   s           msgpack {due, code, weekly, monthly, alltime, code, weekly, ...}: its windows
--   <block>     msgpack {code * BLOCK_DAYS + day % BLOCK_DAYS, count, ...}: the tiles of the
--               BLOCK_DAYS days from <block> * BLOCK_DAYS on. Days up to TILE_DAYS ago count
--   -<offer>    customers only: the last day, today or before, that the offer was interacted with
--   p<day>:<offer>  that day, if it has not come yet: of an event a few minutes ahead of midnight,
--               or that waited for a worker which counts it before it rolls
-- A code is the place of the outcome type in meta's `types`; an offer here is its number in the
-- hash `offers`. `due` is the next window day on which the windows of the record change by
-- themselves (0 = none); the record is then a member of the set due:<due>.
local TILE_DAYS, BLOCK_DAYS = 31, 4
-- Places in `s`: the first code, the windows after a code, and the step to the next code.
local FIRST, WEEKLY, MONTHLY, ALLTIME, STEP = 2, 1, 2, 3, 4

local function block_of(day) return math.floor(day / BLOCK_DAYS) end

-- The day of a place in a block's list of codes and days.
local function day_of(block, code_and_day) return block * BLOCK_DAYS + code_and_day % BLOCK_DAYS end

local function code_of(code_and_day) return math.floor(code_and_day / BLOCK_DAYS) end

local function total_of(s, window)
  local n = 0
  for i = FIRST + window, #s, STEP do n = n + s[i] end
  return n
end
