-- string.find, match, gmatch and gsub that a budget can stop: a hostile Subject of 200 bytes can keep Lua's own matcher
-- busy for 11 seconds, and no hook fires inside it.
--
-- The worst case of Lua's matcher is about length^(items that repeat, one more if it may start anywhere) * 2^(items
-- with "?"). Below WORST steps (some 20 ms) the C function does the work; above, the matcher here, which is ten to
-- fifteen times slower and costs instructions like any other Lua.
local K, raw = ... -- the kernel; {find, match, gmatch, gsub, byte, sub, char} as Lua made them
local find, match_c, gmatch_c, gsub_c, byte, sub, char = table.unpack(raw, 1, 7)
local fail, type, tostring, concat, remove = K.fail, type, tostring, table.concat, table.remove
local unpack = table.unpack

local WORST = 4e6
local KEPT = 500 -- patterns remembered
local LARGEST = 64 << 20 -- bytes a gsub in C may make, at worst

-- Reading a pattern ---------------------------------------------------------------------------------------------------

local ANY, CLASS = {}, {}
for i = 0, 255 do
  ANY[i] = true
end
for letter in gmatch_c("acdglpsuwx", ".") do
  local is, isnt = {}, {}
  for i = 0, 255 do
    local yes = find(char(i), "%" .. letter) ~= nil
    is[i], isnt[i] = yes, not yes
  end
  CLASS[byte(letter)], CLASS[byte(letter:upper())] = is, isnt
end

local function set_at(p, at) -- "[...]" -> the bytes it stands for, and where the pattern goes on
  local set, negated, first = {}, false, true
  at = at + 1
  if byte(p, at) == 94 then
    negated, at = true, at + 1
  end
  while true do
    local c = byte(p, at)
    if not c then
      fail("malformed pattern (missing ']')")
    elseif c == 93 and not first then
      at = at + 1
      break
    end
    first = false
    if c == 37 then
      local e = byte(p, at + 1)
      if not e then
        fail("malformed pattern (missing ']')")
      elseif CLASS[e] then
        for i = 0, 255 do
          if CLASS[e][i] then
            set[i] = true
          end
        end
      else
        set[e] = true
      end
      at = at + 2
    elseif byte(p, at + 1) == 45 and byte(p, at + 2) and byte(p, at + 2) ~= 93 then
      for i = c, byte(p, at + 2) do
        set[i] = true
      end
      at = at + 3
    else
      set[c] = true
      at = at + 1
    end
  end
  if negated then
    local others = {}
    for i = 0, 255 do
      others[i] = not set[i]
    end
    set = others
  end
  return set, at
end

local function item(p, at)
  local c = byte(p, at)
  if c == 46 then
    return ANY, at + 1
  elseif c == 91 then
    return set_at(p, at)
  elseif c == 37 then
    local d = byte(p, at + 1)
    if not d then
      fail("malformed pattern (ends with '%')")
    end
    return CLASS[d] or { [d] = true }, at + 2
  end
  return { [c] = true }, at + 1
end

local REPEATS = { [42] = "star", [43] = "plus", [45] = "least", [63] = "maybe" }

--- The steps of a pattern, how often it can branch, and whether it is anchored.
local function read(p, anchors)
  local steps = { captures = 0, power = 0, maybes = 0 }
  local at, stop, open, closed = 1, #p, {}, {}
  if anchors and byte(p, 1) == 94 then
    steps.anchored, at = true, 2
  end
  while at <= stop do
    local c, d = byte(p, at), byte(p, at + 1)
    local step
    if c == 40 then
      local n = steps.captures + 1
      steps.captures = n
      if d == 41 then
        step, closed[n], at = { op = "here", n = n }, true, at + 2
      else
        step, open[#open + 1], at = { op = "open", n = n }, n, at + 1
      end
    elseif c == 41 then
      local n = remove(open)
      if not n then
        fail("invalid pattern capture")
      end
      step, closed[n], at = { op = "close", n = n }, true, at + 1
    elseif c == 36 and at == stop then
      step, at = { op = "end" }, at + 1
    elseif c == 37 and d == 98 then
      local from, to = byte(p, at + 2), byte(p, at + 3)
      if not to then
        fail("malformed pattern (missing arguments to '%b')")
      end
      steps.power = steps.power + 1
      step, at = { op = "pair", from = from, to = to }, at + 4
    elseif c == 37 and d == 102 then
      if byte(p, at + 2) ~= 91 then
        fail("missing '[' after '%f' in pattern")
      end
      local set, after = set_at(p, at + 2)
      step, at = { op = "edge", set = set }, after
    elseif c == 37 and d and d >= 48 and d <= 57 then
      if not closed[d - 48] then
        fail("invalid capture index %" .. (d - 48) .. " in pattern")
      end
      steps.power = steps.power + 1
      step, at = { op = "again", n = d - 48 }, at + 2
    else
      local set, after = item(p, at)
      local op = REPEATS[byte(p, after)]
      if op == "maybe" then
        steps.maybes = steps.maybes + 1
      elseif op then
        steps.power = steps.power + 1
      end
      step, at = { op = op or "one", set = set }, op and after + 1 or after
    end
    steps[#steps + 1] = step
  end
  if #open > 0 then
    fail("unfinished capture")
  elseif steps.captures > 32 then
    fail("too many captures")
  end
  if not steps.anchored then
    steps.power = steps.power + 1
  end
  return steps
end

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

-- Matching ------------------------------------------------------------------------------------------------------------

local function match_at(steps, s, i, n, from, to) -- -> where the match ends (one past it), or nil
  while true do
    local step = steps[n]
    if not step then
      return i
    end
    local op, set = step.op, step.set
    if op == "one" then
      local c = byte(s, i)
      if not c or not set[c] then
        return
      end
      i = i + 1
    elseif op == "star" or op == "plus" then
      local least, c = op == "plus" and i + 1 or i, byte(s, i)
      while c and set[c] do
        i = i + 1
        c = byte(s, i)
      end
      while i >= least do
        local stop = match_at(steps, s, i, n + 1, from, to)
        if stop then
          return stop
        end
        i = i - 1
      end
      return
    elseif op == "least" then
      while true do
        local stop = match_at(steps, s, i, n + 1, from, to)
        if stop then
          return stop
        end
        local c = byte(s, i)
        if not c or not set[c] then
          return
        end
        i = i + 1
      end
    elseif op == "maybe" then
      local c = byte(s, i)
      if c and set[c] then
        local stop = match_at(steps, s, i + 1, n + 1, from, to)
        if stop then
          return stop
        end
      end
    elseif op == "open" then
      from[step.n] = i
    elseif op == "close" then
      to[step.n] = i
    elseif op == "here" then
      from[step.n], to[step.n] = i, false
    elseif op == "end" then
      if i ~= #s + 1 then
        return
      end
    elseif op == "pair" then
      if byte(s, i) ~= step.from then
        return
      end
      local deep, j = 1, i + 1
      while deep > 0 do
        local c = byte(s, j)
        if not c then
          return
        elseif c == step.to then
          deep = deep - 1
        elseif c == step.from then
          deep = deep + 1
        end
        j = j + 1
      end
      i = j
    elseif op == "edge" then
      local before, here = i > 1 and byte(s, i - 1) or 0, byte(s, i) or 0
      if set[before] or not set[here] then
        return
      end
    else -- again
      local start, stop = from[step.n], to[step.n]
      if stop == false then -- a position is no text
        return
      end
      local text = sub(s, start, stop - 1)
      if sub(s, i, i + #text - 1) ~= text then
        return
      end
      i = i + #text
    end
    n = n + 1
  end
end

local function search(steps, s, i) -- -> first, one past the last, captures' starts and ends
  repeat
    local from, to = {}, {}
    local stop = match_at(steps, s, i, 1, from, to)
    if stop then
      return i, stop, from, to
    end
    i = i + 1
  until steps.anchored or i > #s + 1
end

local function captures(steps, s, i, stop, from, to, whole)
  local found = {}
  for n = 1, steps.captures do
    found[n] = to[n] == false and from[n] or sub(s, from[n], to[n] - 1)
  end
  if whole and steps.captures == 0 then
    found[1] = sub(s, i, stop - 1)
  end
  return found, whole and steps.captures == 0 and 1 or steps.captures
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
  init = start_of(s, init)
  if init > #s + 1 then
    return nil
  end
  local i, stop, from, to = search(steps, s, init)
  if not i then
    return nil
  end
  local found, n = captures(steps, s, i, stop, from, to, false)
  return i, stop - 1, unpack(found, 1, n)
end

function P.match(s, p, init)
  s, p = texts("match", s, p)
  local quick, steps = cheap(s, p, true)
  if quick then
    return match_c(s, p, init)
  end
  init = start_of(s, init)
  if init > #s + 1 then
    return nil
  end
  local i, stop, from, to = search(steps, s, init)
  if not i then
    return nil
  end
  local found, n = captures(steps, s, i, stop, from, to, true)
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
