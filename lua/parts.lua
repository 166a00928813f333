-- The parts of a mail as rules hold them, and their headers. A part is a number that only this file sees; whatever a rule
-- asks of it, Python is asked at that moment, so nothing here can be out of date.
local K, O, C, py = ... -- the kernel, objects, crossing, Python's functions
local fail, charge, now, unknown = K.fail, K.charge, K.now, O.unknown
local next, rawget, setmetatable, gmatch, tonumber = next, rawget, setmetatable, string.gmatch, tonumber
local NUMBER = O.NUMBER

local P = {}
local methods, fields = {}, {} -- declared words of a part
local header_methods = {} -- declared words of headers, as a part has them

local of = setmetatable({}, { __mode = "k" }) -- a part, or its headers -> {facts, number}
local objects = setmetatable({}, { __mode = "k" }) -- facts -> number -> part
local edits = setmetatable({}, { __mode = "k" }) -- facts -> how many changes rules have made

local function read_only(object)
  return O.read_only(object, "; it is changed with words such as part:rename")
end

--- (the number of the mail, the number of the part) of a part or of its headers.
function P.who(self, word)
  local held = of[self]
  if not held then
    fail(word .. " is called with a colon, on a part of the mail")
  end
  return held[1][NUMBER], held[2]
end

-- One part ------------------------------------------------------------------------------------------------------------

local PART = { __metatable = false, __name = "part", __newindex = read_only("part") }
local HEADERS = { __metatable = false, __name = "part.headers", __newindex = read_only("part.headers") }

local function object(facts, number)
  local known = objects[facts]
  if not known then
    known = {}
    objects[facts] = known
  end
  local part = known[number]
  if not part then
    part = setmetatable({}, PART)
    known[number], of[part] = part, { facts, number }
  end
  return part
end

--- A part of the mail that is being judged.
function P.object(number)
  return object(now().facts, number)
end

local asked = 0

local function ask(part, key)
  local held = of[part]
  asked = asked + 1 & 7
  if asked == 0 then -- so a mail of a thousand parts can be looked at
    charge(1)
  end
  local tag, value = py.ask_mail(held[1][NUMBER], "part.field", held[2], key)
  if not tag or tag == "none" or tag == "wrong" then
    fail(value)
  elseif tag == "list" then
    return C.list(value)
  elseif tag == "part" then
    return object(held[1], value)
  end
  return value
end

function PART.__index(part, key)
  if methods[key] then
    return methods[key]
  elseif not fields[key] then
    unknown("part", key)
  elseif key == "headers" then
    local headers = setmetatable({}, HEADERS)
    of[headers] = of[part]
    return headers
  end
  return ask(part, key)
end

function PART.__tostring(part)
  return ask(part, "number")
end

function PART.__pairs(part)
  local key
  return function()
    key = next(fields, key)
    if key then
      return key, PART.__index(part, key)
    end
  end
end

function HEADERS.__index(_, key)
  return header_methods[key] or unknown("mail.headers", key)
end

function P.is(value)
  return of[value] ~= nil and value.headers ~= nil
end

-- Several parts: a list that `for part in list do` walks, too ----------------------------------------------------------

local place = setmetatable({}, { __mode = "k" }) -- a list -> {part -> its place, edits when it was made}
local LIST = { __metatable = false, __name = "parts", __newindex = read_only("parts") }

--- The next part that is still in the mail.
function LIST.__call(list, _, before)
  local known = place[list]
  local n = before == nil and 1 or known[1][before] + 1
  local part = rawget(list, n)
  local facts = part and of[part][1]
  while part and edits[facts] ~= known[2] and not ask(part, "present") do
    n = n + 1
    part = rawget(list, n)
  end
  return part
end

--- Parts from their numbers: "3 4 5".
function P.list(text)
  local facts, list, places, n = now().facts, {}, {}, 0
  for number in gmatch(text, "%d+") do
    n = n + 1
    local part = object(facts, tonumber(number))
    list[n], places[part] = part, n
  end
  place[list] = { places, edits[facts] }
  return setmetatable(list, LIST)
end

--- A rule has changed something about the parts.
function P.edited()
  local facts = now().facts
  edits[facts] = (edits[facts] or 0) + 1
end

-- Declared words ------------------------------------------------------------------------------------------------------

function P.method(name, f)
  methods[name] = f
end

function P.header_method(name, f)
  header_methods[name] = f
end

--- Declare a word that begins with "part". False when there is nothing behind it.
function P.declare(name)
  local method, field = name:match("^part:([%w_]+)$"), name:match("^part%.([%w_]+)$")
  if field then
    fields[field] = true
  end
  return field ~= nil or methods[method] ~= nil
end

return P
