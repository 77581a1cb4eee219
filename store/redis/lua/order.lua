-- The order of the members of a sorted set with equal scores.

-- Returns whether `a` sorts before `b` by bytes; Lua's `<` depends on the server's locale.
local function is_before(a, b)
  local same, max_same = 0, math.min(#a, #b) -- number of equal leading bytes: known, and maximum
  while same < max_same do
    local middle = math.ceil((same + max_same) / 2)
    if string.sub(a, same + 1, middle) == string.sub(b, same + 1, middle) then
      same = middle
    else
      max_same = middle - 1
    end
  end
  return (string.byte(a, same + 1) or -1) < (string.byte(b, same + 1) or -1)
end
