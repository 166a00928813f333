-- mail.headers: its methods check what they are given, then Python, who has the message, does the work.
local K, O, C, py = ... -- the kernel, objects, crossing, Python's functions
local fail, charge, unknown = K.fail, K.charge, O.unknown
local type, tostring, ipairs, setmetatable, getmetatable = type, tostring, ipairs, setmetatable, getmetatable
local NUMBER, STAGE = O.NUMBER, O.STAGE

local LARGEST_TEXT = 1 << 20 -- bytes of one text handed to Python

local H = {}
local owner = setmetatable({}, { __mode = "k" }) -- a headers object -> facts
local HEADERS = { __metatable = false, __name = "mail.headers", __newindex = O.read_only("mail.headers") }
local visible, methods = {}, {} -- the declared ones; all of them
HEADERS.__index = setmetatable(visible, {
  __index = function(_, key)
    unknown("mail.headers", key)
  end,
})

--- The headers of a mail.
function H.new(facts)
  local headers = setmetatable({}, HEADERS)
  owner[headers] = facts
  return headers
end

local function refuse(headers, method, name) -- why a method cannot be called so
  local facts = owner[headers]
  if not facts then
    fail("mail.headers:" .. method .. " is called with a colon, on mail.headers")
  elseif type(name) ~= "string" then
    fail("mail.headers:" .. method .. " needs the name of a header, not " .. type(name))
  end
  unknown("mail.headers", method, facts[STAGE])
end

local known = 0 -- the stages at which there is a header to read

local function number_of(headers, method, name)
  local facts = owner[headers]
  if not facts or type(name) ~= "string" or known >> facts[STAGE] & 1 == 0 then
    refuse(headers, method, name)
  end
  charge(1)
  return facts[NUMBER]
end

local function value_of(value, method)
  if type(value) == "number" then
    value = tostring(value)
  elseif type(value) ~= "string" then
    local text = type(value) == "table" and getmetatable(value) == false and tostring(value)
    if not text then
      fail("mail.headers:" .. method .. " needs text, not " .. type(value))
    end
    value = text
  end
  if #value > LARGEST_TEXT then
    fail("mail.headers:" .. method .. ": the value is longer than " .. LARGEST_TEXT .. " bytes")
  end
  return value
end

for _, method in ipairs({ "has", "get", "count", "remove" }) do
  local ask = py["header_" .. method]
  methods[method] = function(self, name)
    local facts = owner[self] -- number_of(), written out: this is the hottest way into Python
    if not facts or type(name) ~= "string" or known >> facts[STAGE] & 1 == 0 then
      refuse(self, method, name)
    end
    charge(1)
    local value, message = ask(facts[NUMBER], name)
    if message then
      fail(message)
    end
    return value
  end
end

function methods.all(self, name)
  local text, message = py.header_all(number_of(self, "all", name), name)
  if message then
    fail(message)
  end
  return C.list(text)
end

local EARLY = { append = true, prepend = true, set = true } -- before there is a header Python keeps them for it

for _, method in ipairs({ "append", "prepend", "set", "rename" }) do
  local ask, early = py["header_" .. method], EARLY[method]
  methods[method] = function(self, name, value)
    value = value_of(value, method)
    charge(#value >> 10) -- Python keeps it where no limit of ours sees it
    local facts = early and type(name) == "string" and owner[self]
    if facts then
      charge(1)
    end
    local done, message = ask(facts and facts[NUMBER] or number_of(self, method, name), name, value)
    if message then
      fail(message)
    end
    return done
  end
end

-- Declared words ------------------------------------------------------------------------------------------------------

--- A method that answered.lua makes.
function H.method(name, f)
  methods[name] = f
end

--- The number of the mail whose headers these are, for such a method.
function H.number_of(headers, method)
  return number_of(headers, method, "")
end

--- Declare a method. False when there is nothing behind it.
function H.declare(method, mask)
  visible[method] = methods[method]
  known = method == "get" and mask or known
  return methods[method] ~= nil
end

return H
