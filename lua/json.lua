-- Plain values as JSON in ASCII and back: how mail.vars crosses between Lua and Python. Bytes above 127 are written as
-- \u0080 to \u00ff, so that any text survives.
local K = ...
local fail, type, pairs, tostring, format, concat = K.fail, type, pairs, tostring, string.format, table.concat
local find, sub, gsub, byte, char, match = string.find, string.sub, string.gsub, string.byte, string.char, string.match
local mathtype, tonumber, next, utf8char, utf8len, rawlen = math.type, tonumber, next, utf8.char, utf8.len, rawlen
local getmetatable, metatable, rawget, sort = getmetatable, debug.getmetatable, rawget, table.sort

local J = { PLAIN = {} } -- PLAIN: a key of our objects' metatables, a function that gives what others are shown
local DEEPEST = 16

-- Writing -------------------------------------------------------------------------------------------------------------

local function escape(c)
  return format("\\u%04x", byte(c))
end

local public -- for others than us: UTF-8 stays as it is

local function text(s)
  if find(s, '[%c"\\\127-\255]') then
    s = gsub(s, public and utf8len(s) and '[%c"\\\127]' or '[%c"\\\127-\255]', escape)
  end
  return '"' .. s .. '"'
end

local write

local function list(t, n, out, path, deep)
  for i = 1, n do
    out[#out + 1] = i == 1 and "[" or ","
    write(t[i], out, path, i, deep)
  end
  out[#out + 1] = "]"
end

local function shape(t) -- its length if it is a list, 0 if a table with names, nil if neither
  local n, count = rawlen(t), 0
  for key in next, t do
    count = count + 1
    if n > 0 and mathtype(key) ~= "integer" or n == 0 and type(key) ~= "string" then
      return nil
    end
  end
  return (n == 0 or count == n) and n or nil
end

local function in_order(t)
  local names, n = {}, 0
  for name in next, t do
    names[#names + 1] = name
  end
  sort(names)
  return function()
    n = n + 1
    return names[n], names[n] and rawget(t, names[n])
  end
end

local function named(t, out, path, deep)
  local between, each, of = "{", next, t
  if public then -- the same table is the same text
    each, of = in_order(t), nil
  end
  for key, value in each, of do
    out[#out + 1] = between .. text(key) .. ":"
    write(value, out, path, key, deep)
    between = ","
  end
  out[#out + 1] = between == "{" and "{}" or "}"
end

local function at(path, key) -- "mail.vars.list[2]"
  if not key then
    return path
  end
  return type(key) == "string" and path .. "." .. key or path .. "[" .. key .. "]"
end

function write(value, out, path, key, deep)
  local kind = type(value)
  if kind == "string" then
    out[#out + 1] = text(value)
  elseif kind == "boolean" then
    out[#out + 1] = value and "true" or "false"
  elseif kind == "number" then
    if mathtype(value) == "integer" then
      out[#out + 1] = tostring(value)
    elseif value - value ~= 0 then
      fail(at(path, key) .. " is not a number that can be kept")
    else
      local s = format("%.15g", value)
      s = tonumber(s) == value and s or format("%.17g", value)
      out[#out + 1] = find(s, "[%.e]") and s or s .. ".0"
    end
  elseif kind == "table" then
    path = at(path, key)
    if deep >= DEEPEST then
      fail(path .. " is nested too deeply, or holds itself")
    elseif getmetatable(value) ~= nil then
      local plain = public and metatable(value)[J.PLAIN]
      if plain then
        return write(plain(value), out, path, nil, deep)
      end
      fail(path .. " holds an object; only text, numbers, booleans and tables of them can be kept (tostring() helps)")
    end
    local n = shape(value)
    if not n then
      fail(path .. " is neither a list without gaps nor a table with names as keys")
    elseif n > 0 then
      list(value, n, out, path, deep + 1)
    else
      named(value, out, path, deep + 1)
    end
  else
    fail(at(path, key) .. " is a " .. kind .. "; only text, numbers, booleans and tables of them can be kept")
  end
end

--- A table with names as JSON; `path` is what errors call it.
function J.encode(t, path)
  local out = {}
  public = false
  named(t, out, path, 0)
  return concat(out)
end

--- Any value as JSON for others; text that is not UTF-8 is taken for Latin-1.
function J.public(value)
  if value == nil then
    return "null"
  end
  local out = {}
  public = true
  write(value, out, "the value", nil, 0)
  return concat(out)
end

function J.check(value, path, key)
  local kind = type(value)
  public = false
  if kind ~= "string" and kind ~= "boolean" and mathtype(value) ~= "integer" then
    write(value, {}, path, key, 0)
  end
end

-- Reading what Python wrote: always well formed -----------------------------------------------------------------------

local PLAIN = { n = "\n", t = "\t", r = "\r", b = "\b", f = "\f" }

local function code(hex)
  local n = tonumber(hex, 16)
  return n < 256 and char(n) or utf8char(n)
end

local function unescape(s)
  s = gsub(s, "\\u(d[89ab]%x%x)\\u(d[cdef]%x%x)", function(high, low)
    return utf8char(0x10000 + (tonumber(high, 16) - 0xd800) * 0x400 + tonumber(low, 16) - 0xdc00)
  end)
  s = gsub(s, "\\(u?)(.)(%x?%x?%x?)", function(u, c, rest)
    if u == "u" then
      return code(c .. rest)
    end
    return (PLAIN[c] or c) .. rest
  end)
  return s
end

local read

local function string_at(s, at) -- at: just behind the first quote
  local i = at
  while true do
    local stop = find(s, '["\\]', i)
    if byte(s, stop) == 34 then
      local raw = sub(s, at, stop - 1)
      return find(raw, "\\", 1, true) and unescape(raw) or raw, stop + 1
    end
    i = stop + 2
  end
end

function read(s, at)
  local c = byte(s, at)
  if c == 34 then
    return string_at(s, at + 1)
  elseif c == 123 or c == 91 then
    local t, n, key = {}, 0, nil
    at = at + 1
    if byte(s, at) == c + 2 then
      return t, at + 1
    end
    while true do
      n = n + 1
      if c == 123 then
        key, at = string_at(s, at + 1)
        t[key], at = read(s, at + 1)
      else
        t[n], at = read(s, at)
      end
      local after = byte(s, at)
      at = at + 1
      if after ~= 44 then
        return t, at
      end
    end
  elseif c == 116 then
    return true, at + 4
  elseif c == 102 then
    return false, at + 5
  elseif c == 110 then
    return nil, at + 4
  end
  local number = match(s, "^[-+%d.eE]+", at)
  return tonumber(number), at + #number
end

function J.decode(s)
  return (read(s, 1))
end

return J
