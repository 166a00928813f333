-- Lua's patterns in Lua: a pattern is read into a list of steps, and the steps are tried at one place after another.
-- That is ten to fifteen times slower than C, and costs instructions like any other Lua.
local K, raw = ... -- the kernel; {find, match, gmatch, gsub, byte, sub, char} as Lua made them
local find, gmatch, byte, sub, char = raw[1], raw[3], raw[5], raw[6], raw[7]
local fail, remove = K.fail, table.remove

local M = {}

-- Reading a pattern ---------------------------------------------------------------------------------------------------

local ANY, CLASS = {}, {}
for i = 0, 255 do
  ANY[i] = true
end
for letter in gmatch("acdglpsuwxz", ".") do
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
function M.read(p, anchors)
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

-- Matching ------------------------------------------------------------------------------------------------------------

--- Where a match that begins at `i` ends (one past it), or nil. `n` is the step to begin with, 1.
local function match_at(steps, s, i, n, from, to)
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

M.match_at = match_at

--- The first match at `i` or behind it: its first byte, one past its last, the starts and the ends of its captures.
function M.search(steps, s, i)
  repeat
    local from, to = {}, {}
    local stop = match_at(steps, s, i, 1, from, to)
    if stop then
      return i, stop, from, to
    end
    i = i + 1
  until steps.anchored or i > #s + 1
end

--- What a match captured, and how many; the `whole` match where the pattern captures nothing, if that is wanted.
function M.captures(steps, s, i, stop, from, to, whole)
  local found = {}
  for n = 1, steps.captures do
    found[n] = to[n] == false and from[n] or sub(s, from[n], to[n] - 1)
  end
  if whole and steps.captures == 0 then
    found[1] = sub(s, i, stop - 1)
  end
  return found, whole and steps.captures == 0 and 1 or steps.captures
end

return M
