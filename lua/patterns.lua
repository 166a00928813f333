-- string.find, match, gmatch and gsub that a budget can stop: a hostile Subject of 200 bytes can keep Lua's own matcher
-- busy for 11 seconds, and no hook fires inside it.
--
-- The worst case of Lua's matcher is about length^(items that repeat, one more if it may start anywhere) * 2^(items
-- with "?"). Below WORST steps (some 20 ms) the C function does the work; above, matcher.lua.
local K, M, raw = ... -- the kernel; the matcher; {find, match, gmatch, gsub, byte, sub, char} as Lua made them
local find, match_c, gmatch_c, gsub_c, byte, sub = table.unpack(raw, 1, 6)
local read, match_at, search, captures = M.read, M.match_at, M.search, M.captures
local fail, type, tostring, concat, unpack = K.fail, type, tostring, table.concat, table.unpack

local WORST = 4e6
local KEPT = 500 -- patterns remembered
local LARGEST = 64 << 20 -- bytes a gsub in C may make, at worst

-- Which matcher -------------------------------------------------------------------------------------------------------

local known, free = { [true] = {}, [false] = {} }, { [true] = KEPT, [false] = KEPT }

local function steps_of(p, anchors)
  local steps = known[anchors][p]
  if not steps then
    steps = read(p, anchors)
    if free[anchors] == 0 or #p > 1000 then
      known[anchors], free[anchors] = {}, KEPT
    end
    known[anchors][p], free[anchors] = steps, free[anchors] - 1
  end
  return steps
end

local function cheap(s, p, anchors)
  local steps = steps_of(p, anchors)
  return (#s + 1) ^ steps.power * 2 ^ steps.maybes <= WORST, steps
end

-- Text found as it is: C compares at each place, which is length * length at worst; Knuth, Morris and Pratt never are.
local function find_text(s, text, init)
  local n, fallback, k = #text, { 0 }, 0
  for i = 2, n do
    local c = byte(text, i)
    while k > 0 and byte(text, k + 1) ~= c do
      k = fallback[k]
    end
    if byte(text, k + 1) == c then
      k = k + 1
    end
    fallback[i] = k
  end
  k = 0
  for i = init, #s do
    local c = byte(s, i)
    while k > 0 and byte(text, k + 1) ~= c do
      k = fallback[k]
    end
    if byte(text, k + 1) == c then
      k = k + 1
    end
    if k == n then
      return i - n + 1, i
    end
  end
end

-- The words -----------------------------------------------------------------------------------------------------------

local P = {}

local function texts(word, s, p)
  if type(s) == "number" then
    s = tostring(s)
  end
  if type(p) == "number" then
    p = tostring(p)
  end
  if type(s) ~= "string" then
    fail("string." .. word .. " needs text, not " .. type(s))
  elseif type(p) ~= "string" then
    fail("string." .. word .. " needs a pattern, not " .. type(p))
  end
  return s, p
end

local function start_of(s, init)
  init = init or 1
  if type(init) ~= "number" then
    fail("the place to start at must be a number")
  end
  init = init // 1
  if init < 0 then
    init = #s + init + 1
  end
  return init < 1 and 1 or init
end

--- What our own matcher finds: the first byte, the last one, the captures and how many there are; or nil.
local function found_from(steps, s, init, whole)
  init = start_of(s, init)
  local i, stop, from, to
  if init <= #s + 1 then
    i, stop, from, to = search(steps, s, init)
  end
  if i then
    return i, stop - 1, captures(steps, s, i, stop, from, to, whole)
  end
end

function P.find(s, p, init, plain)
  s, p = texts("find", s, p)
  if plain or not find(p, "[%^%$%*%+%?%.%(%[%%%-]") then
    if #s * #p <= 1e8 then
      return find(s, p, init, true)
    end
    return find_text(s, p, start_of(s, init))
  end
  local quick, steps = cheap(s, p, true)
  if quick then
    return find(s, p, init)
  end
  local i, last, found, n = found_from(steps, s, init, false)
  if not i then
    return nil
  end
  return i, last, unpack(found, 1, n)
end

function P.match(s, p, init)
  s, p = texts("match", s, p)
  local quick, steps = cheap(s, p, true)
  if quick then
    return match_c(s, p, init)
  end
  local i, _, found, n = found_from(steps, s, init, true)
  if not i then
    return nil
  end
  return unpack(found, 1, n)
end

function P.gmatch(s, p, init)
  s, p = texts("gmatch", s, p)
  local quick, steps = cheap(s, p, false)
  if quick then
    return gmatch_c(s, p, init)
  end
  local at, last = start_of(s, init), nil
  return function()
    while at <= #s + 1 do
      local i, stop, from, to = search(steps, s, at)
      if not i then
        at = #s + 2
        return nil
      end
      if stop ~= last then
        at, last = stop, stop
        local found, n = captures(steps, s, i, stop, from, to, true)
        return unpack(found, 1, n)
      end
      at = i + 1
    end
  end
end

local function replaced(by, kind, found, n, whole)
  local value
  if kind == "string" then
    return (
      gsub_c(by, "%%(.?)", function(c)
        if c == "0" then
          return whole
        elseif c == "%" then
          return "%"
        end
        local k = find(c, "^[1-9]$") and byte(c) - 48
        if not k then
          fail("invalid use of '%' in replacement string")
        elseif k > n then
          fail("invalid capture index %" .. k .. " in replacement string")
        end
        return tostring(found[k])
      end)
    )
  elseif kind == "table" then
    value = by[found[1]]
  else
    value = by(unpack(found, 1, n))
  end
  if not value then
    return whole
  elseif type(value) ~= "string" and type(value) ~= "number" then
    fail("invalid replacement value (a " .. type(value) .. ")")
  end
  return value
end

function P.gsub(s, p, by, max)
  s, p = texts("gsub", s, p)
  local kind = type(by)
  if kind == "number" then
    by, kind = tostring(by), "string"
  elseif kind ~= "string" and kind ~= "table" and kind ~= "function" then
    fail("string.gsub needs text, a table or a function to replace with, not " .. kind)
  end
  local quick, steps = cheap(s, p, true)
  if quick and (kind ~= "string" or (#s + 1) * (#by + 1) <= LARGEST) then
    return gsub_c(s, p, by, max)
  end
  local out, at, count, last = {}, 1, 0, nil
  while count < (max or math.huge) do
    local from, to = {}, {}
    local stop = match_at(steps, s, at, 1, from, to)
    if stop and stop ~= last then
      count = count + 1
      local found, n = captures(steps, s, at, stop, from, to, true)
      out[#out + 1] = replaced(by, kind, found, n, sub(s, at, stop - 1))
      at, last = stop, stop
    elseif at <= #s then
      out[#out + 1] = sub(s, at, at)
      at = at + 1
    else
      break
    end
    if steps.anchored then
      break
    end
  end
  out[#out + 1] = sub(s, at)
  K.charge(#out // 100)
  return concat(out), count
end

return P
