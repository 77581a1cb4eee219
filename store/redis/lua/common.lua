-- Included in every script that changes counters. KEYS[1] is the tenant's `active` key; all other
-- keys are derived from it, so they have the same hash tag and are in the same slot.
local base = string.sub(KEYS[1], 1, -7)
local gen = ARGV[1]
local home = base .. gen .. ':'
local meta = home .. 'meta'
local KINDS = {'a', 't', 'c', 'u'}

local function rank_of(kind, period)
  return home .. 'r:' .. kind .. ':' .. period
end

-- Adds to the windows of one outcome type in `s`.
local function add(s, code, weekly, monthly, alltime)
  for i = FIRST, #s, STEP do
    if s[i] == code then
      s[i + 1], s[i + 2], s[i + 3] = s[i + 1] + weekly, s[i + 2] + monthly, s[i + 3] + alltime
      return
    end
  end
  local n = #s
  s[n + 1], s[n + 2], s[n + 3], s[n + 4] = code, weekly, monthly, alltime
end

-- Returns the next window day after `today` on which the tile of `day` enters or leaves a window.
local function due_of(day, today)
  if day > today then return day end
  if day + 7 > today then return day + 7 end
  return day + TILE_DAYS
end

-- Returns the earlier of two due days; 0 = none.
local function earlier(due, next_due)
  return (due == 0 or next_due < due) and next_due or due
end
