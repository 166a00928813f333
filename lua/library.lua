-- Lua's own library as rules see it: the safe part, with every function bounded that works long or takes much without
-- the hook seeing it. What is not in the table returned here does not exist for rules; mta/rules/words/api.py declares it.
local K, P, random, now = ... -- the kernel; patterns; World's random() in [0, 1) and now() in seconds since 1970
local fail, charge, control = K.fail, K.charge, K.control
local type, select, tostring, getmetatable = type, select, tostring, getmetatable
local string, table, math, utf8, os, next, rawset = string, table, math, utf8, os, next, rawset

local LONGEST = 8 << 20 -- bytes of text one call may make
local MOST = 8000 -- values one call may return

local function counted(f) -- text of some length costs units: one for 64 KiB
  return function(s, ...)
    if type(s) == "string" and #s > 65536 then
      charge(#s >> 16)
    end
    return f(s, ...)
  end
end

local L = { string = P, table = {}, math = {}, utf8 = {}, os = {}, coroutine = control.coroutine }

-- string --------------------------------------------------------------------------------------------------------------

for _, name in ipairs({ "lower", "upper", "reverse" }) do
  P[name] = counted(string[name])
end
P.char, P.len, P.sub = string.char, string.len, string.sub

local tonumber = tonumber

local byte = string.byte
function P.byte(s, i, j)
  i, j = tonumber(i) or i, tonumber(j) or j -- C takes numbers written as text
  if j and type(j) == "number" and type(i) == "number" and (j < 0 or j - i >= MOST) and #s >= MOST then
    fail("string.byte can return " .. MOST .. " values at most")
  end
  return byte(s, i, j)
end

local rep = string.rep
function P.rep(s, n, between)
  if type(s) == "number" then
    s = tostring(s)
  end
  if type(s) ~= "string" or type(n) ~= "number" then
    fail("string.rep needs text and a number")
  end
  local one = #s + (between and #between or 0)
  if one == 0 or n < 1 then
    return ""
  elseif one * n > LONGEST then
    fail("string.rep would make more than " .. LONGEST .. " bytes")
  end
  charge(one * n >> 16)
  return rep(s, n, between)
end

local format = string.format
function P.format(text, ...)
  local bytes = 0
  for n = 1, select("#", ...) do
    local value = select(n, ...)
    if type(value) == "string" then
      bytes = bytes + #value
    end
  end
  if type(text) == "string" and bytes + #text > 65536 then
    if bytes + #text > LONGEST then
      fail("string.format would make more than " .. LONGEST .. " bytes")
    end
    charge(bytes + #text >> 16)
  end
  return format(text, ...)
end

-- table ---------------------------------------------------------------------------------------------------------------

local T = L.table

local function plain(t, word) -- __len and __index may lie, and C believes them
  if type(t) ~= "table" then
    fail("table." .. word .. " needs a table, not " .. type(t))
  elseif getmetatable(t) ~= nil then
    fail("table." .. word .. " works on tables without a metatable only")
  end
end

local insert, remove, sort, concat, move = table.insert, table.remove, table.sort, table.concat, table.move

function T.insert(t, ...)
  plain(t, "insert")
  if select("#", ...) > 1 then
    charge(#t >> 8)
  end
  return insert(t, ...)
end

function T.remove(t, at)
  plain(t, "remove")
  if at == nil then
    return remove(t)
  end
  charge(#t >> 8)
  return remove(t, at)
end

local function less(a, b)
  return a < b
end

function T.sort(t, before)
  plain(t, "sort")
  return sort(t, before or less) -- always a Lua function, so that the hook gets its turn
end

function T.concat(t, between, i, j)
  plain(t, "concat")
  i, j, between = i or 1, j or #t, between or ""
  local bytes = 0
  for n = i, j do
    local value = t[n]
    if type(value) == "string" then
      bytes = bytes + #value
    elseif type(value) ~= "number" then
      break -- the real one says what is wrong
    end
    bytes = bytes + #between
    if bytes > LONGEST then
      fail("table.concat would make more than " .. LONGEST .. " bytes")
    end
  end
  if bytes > 65536 then
    charge(bytes >> 16)
  end
  return concat(t, between, i, j)
end

function T.move(from, first, last, at, to)
  plain(from, "move")
  plain(to or from, "move")
  if type(first) ~= "number" or type(last) ~= "number" then
    fail("table.move needs two numbers")
  elseif last - first > 1e6 then
    fail("table.move can move 1000000 elements at most")
  elseif last > first then
    charge((last - first) // 256)
  end
  return move(from, first, last, at, to or from)
end

local unpack = table.unpack
function T.unpack(t, i, j)
  plain(t, "unpack")
  i, j = tonumber(i) or i or 1, tonumber(j) or j or #t
  if type(i) == "number" and type(j) == "number" and j - i >= MOST then
    fail("table.unpack can return " .. MOST .. " values at most")
  end
  return unpack(t, i, j)
end
T.pack = table.pack

-- math, utf8, os ------------------------------------------------------------------------------------------------------

for name in ("abs ceil exp floor fmod huge log max maxinteger min mininteger modf pi sqrt tointeger type ult"):gmatch("%S+") do
  L.math[name] = math[name]
end

function L.math.random(low, high)
  if low == nil then
    return random()
  elseif high == nil then
    low, high = 1, low
  end
  low, high = math.tointeger(low), math.tointeger(high)
  if not low or not high or low > high then
    fail("math.random needs whole numbers, the smaller one first")
  end
  return low + math.tointeger(random() * (high - low + 1) // 1)
end

L.utf8.char, L.utf8.charpattern = utf8.char, utf8.charpattern
L.utf8.codes, L.utf8.len, L.utf8.offset = utf8.codes, counted(utf8.len), counted(utf8.offset)
local codepoint = utf8.codepoint
function L.utf8.codepoint(s, i, j)
  if type(s) == "string" and #s > MOST and j then
    s, i, j = P.sub(s, i, j), 1, -1
    if #s > MOST then
      fail("utf8.codepoint can return " .. MOST .. " values at most")
    end
  end
  return codepoint(s, i, j)
end

function L.os.time(t)
  if t == nil then
    return math.tointeger(now() // 1)
  end
  plain(t, "time")
  return os.time(t)
end

function L.os.date(text, t)
  if text ~= nil and (type(text) ~= "string" or #text > 1000) then
    fail("os.date needs a format of at most 1000 bytes")
  end
  return os.date(text or "%c", t or math.tointeger(now() // 1))
end

-- the basic functions -------------------------------------------------------------------------------------------------

for name in ("assert error ipairs pairs rawequal rawget rawlen select tonumber tostring type _VERSION"):gmatch("%S+") do
  L[name] = _G[name]
end
L.pcall, L.xpcall = control.pcall, control.xpcall
L.setmetatable, L.getmetatable = control.setmetatable, control.getmetatable

function L.rawset(t, k, v)
  if type(t) ~= "table" then
    fail("rawset needs a table")
  end
  local mt = getmetatable(t)
  if mt == false or type(mt) ~= "table" and mt ~= nil then
    fail("this table is read-only")
  end
  return rawset(t, k, v)
end

local text = getmetatable("")
text.__index, text.__metatable = P, false

return L
