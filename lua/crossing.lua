-- Several values as one text, because no table crosses between Lua and Python: what crossing.py writes is read here.
local find, sub, tonumber, unpack = string.find, string.sub, tonumber, table.unpack

local C = {}

--- "5:hello3:you" -> {"hello", "you"}
local function list(text)
  local out, n, at, stop = {}, 0, 1, #text
  while at <= stop do
    local colon = find(text, ":", at, true)
    local last = colon + tonumber(sub(text, at, colon - 1))
    n = n + 1
    out[n] = sub(text, colon + 1, last)
    at = last + 1
  end
  return out
end
C.list = list

--- A list whose items say what they are: "s" text, "n" a number, "b1" or "b0", "-" nil.
function C.several(text)
  local items = list(text)
  local n = #items
  for i = 1, n do
    local kind, rest = sub(items[i], 1, 1), sub(items[i], 2)
    if kind == "s" then
      items[i] = rest
    elseif kind == "n" then
      items[i] = tonumber(rest)
    elseif kind == "b" then
      items[i] = rest == "1"
    else
      items[i] = nil
    end
  end
  return unpack(items, 1, n)
end

return C
