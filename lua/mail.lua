-- The object `mail`: one table for each transaction, filled stage by stage, made of Lua alone. Python is asked only for
-- what is rare or changes: headers, recipients, size, vars. Everything shown is read-only; what may be changed has
-- methods. A field asked for too early, or one that does not exist, is an error at the line that asked.
local K, J, py = ... -- the kernel, JSON, Python's functions
local fail, charge = K.fail, K.charge
local type, tostring, next, ipairs, rawget = type, tostring, next, ipairs, rawget
local setmetatable, getmetatable = setmetatable, getmetatable
local find, sub, gsub, tonumber = string.find, string.sub, string.gsub, tonumber

local LARGEST_VARS = 65536 -- bytes of mail.vars as JSON
local LARGEST_TEXT = 1 << 20 -- bytes of one text handed to Python

local M = {}
local mails = {} -- number -> facts
local MASK = {} -- declared word -> bit set of the stages it is known at
local FIELD = {} -- declared field of `mail` -> the same

-- Keys only this file has: what a fact is made of, kept beside the facts
local MAIL, NUMBER, STAGE, IP, PORT, NAME = {}, {}, {}, {}, {}, {}
local RUN, SENDER, SENDER_DOMAIN, RECIPIENT, RECIPIENT_DOMAIN = {}, {}, {}, {}, {}
local VARS, ANY, TOUCHED = {}, {}, {}

local function unknown(object, key, stage)
  fail(py.unknown(object, type(key) == "string" and key or "[" .. tostring(key) .. "]", stage or -1))
end

local function read_only(object)
  return function(_, key)
    fail(object .. "." .. tostring(key) .. " cannot be assigned")
  end
end

--- "5:hello3:you" -> {"hello", "you"}: how lists of text come from Python.
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
M.list = list

-- Addresses -----------------------------------------------------------------------------------------------------------

local LOCAL, DOMAIN = {}, {}
local PART = { local_part = LOCAL, domain = DOMAIN }
local ADDRESS = { __metatable = false, __name = "address", __newindex = read_only("address") }

function ADDRESS.__index(address, key)
  local part = PART[key]
  if part then
    return rawget(address, part)
  end
  unknown("address", key)
end

function ADDRESS.__tostring(address)
  local name, domain = rawget(address, LOCAL), rawget(address, DOMAIN)
  if domain == "" then
    return name
  end
  if find(name, "[^%w!#$%%&'*+/=?^_`{|}~.-]") or name == "" or find("." .. name .. ".", "..", 1, true) then
    name = '"' .. gsub(name, '["\\]', "\\%0") .. '"' -- RFC 5321 4.1.2: a Quoted-string
  end
  return name .. "@" .. domain
end

function ADDRESS.__eq(a, b)
  return rawget(a, DOMAIN) == rawget(b, DOMAIN) and rawget(a, LOCAL):lower() == rawget(b, LOCAL):lower()
end

function ADDRESS.__concat(a, b)
  return tostring(a) .. tostring(b)
end

function ADDRESS.__pairs(address)
  return next, { local_part = rawget(address, LOCAL), domain = rawget(address, DOMAIN) }
end

local function address(name, domain)
  return setmetatable({ [LOCAL] = name, [DOMAIN] = domain }, ADDRESS)
end

-- Headers -------------------------------------------------------------------------------------------------------------

local owner = setmetatable({}, { __mode = "k" }) -- a headers object -> facts
local HEADERS = { __metatable = false, __name = "mail.headers", __newindex = read_only("mail.headers") }
local visible, methods = {}, {} -- the declared ones; all of them
HEADERS.__index = setmetatable(visible, {
  __index = function(_, key)
    unknown("mail.headers", key)
  end,
})

local function refuse(headers, method, name) -- why a method cannot be called so
  local facts = owner[headers]
  if not facts then
    fail("mail.headers:" .. method .. " is called with a colon, on mail.headers")
  elseif type(name) ~= "string" then
    fail("mail.headers:" .. method .. " needs the name of a header, not " .. type(name))
  end
  unknown("mail", "headers", facts[STAGE])
end

local known = 0 -- the stages at which there is a header

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

--- The number of the mail whose headers these are, for the methods Python answers.
function M.headers_of(headers, method)
  return number_of(headers, method, "")
end

function M.header_method(name, f)
  methods[name] = f
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
  return list(text)
end

for _, method in ipairs({ "append", "prepend", "set", "rename" }) do
  local ask = py["header_" .. method]
  methods[method] = function(self, name, value)
    value = value_of(value, method)
    charge(#value >> 10) -- Python keeps it where no limit of ours sees it
    local done, message = ask(number_of(self, method, name), name, value)
    if message then
      fail(message)
    end
    return done
  end
end

-- Vars ----------------------------------------------------------------------------------------------------------------

local state_of = setmetatable({}, { __mode = "k" }) -- a vars object -> {store, text, dirty, nested, object}
local VARIABLES = { __metatable = false, __name = "mail.vars" }

function VARIABLES.__index(self, key)
  return state_of[self].store[key]
end

function VARIABLES.__newindex(self, key, value)
  local state = state_of[self]
  local kind, store = type(value), state.store
  if type(key) ~= "string" then
    fail("mail.vars needs names as keys, not " .. type(key))
  elseif kind == "table" then
    state.nested = true
  elseif store[key] == value then
    return
  end
  if value ~= nil then
    J.check(value, "mail.vars", key)
  end
  store[key], state.dirty = value, true
end

function VARIABLES.__pairs(self)
  local store, key = state_of[self].store, nil
  return function()
    local value
    key, value = next(store, key)
    return key, value
  end
end

local function vars(facts)
  facts[TOUCHED] = true
  local state = facts[VARS]
  if not state then
    local text = facts[ANY] and py.vars(facts[NUMBER]) or nil
    state = {
      store = text and J.decode(text) or {},
      text = text,
      dirty = false,
      nested = text and find(text, "[%[{]", 2),
      object = setmetatable({}, VARIABLES),
    }
    state_of[state.object], facts[VARS] = state, state
  end
  return state.object
end

--- After a rule that looked at mail.vars: give Python what has changed.
local function keep_vars(facts)
  local state = facts[VARS]
  if state.dirty or state.nested then -- a table inside may have been changed without our seeing it
    local text = J.encode(state.store, "mail.vars")
    state.dirty = false
    if text ~= (state.text or "{}") then
      if #text > LARGEST_VARS then
        fail("mail.vars would hold more than " .. LARGEST_VARS .. " bytes")
      end
      charge(1 + (#text >> 10))
      local _, message = py.keep_vars(facts[NUMBER], text)
      if message then
        fail(message)
      end
      state.text, facts[ANY] = text, true
    end
  end
end

-- The object ----------------------------------------------------------------------------------------------------------

local LAZY = { vars = vars }

function LAZY.client(facts)
  local values = { ip = facts[IP], port = facts[PORT], name = facts[NAME] or nil }
  setmetatable(values, {
    __index = function(_, key)
      if not (type(key) == "string" and MASK["mail.client." .. key]) then
        unknown("mail.client", key)
      end
    end,
  })
  return setmetatable({}, {
    __index = values,
    __newindex = read_only("mail.client"),
    __metatable = false,
    __name = "mail.client",
  })
end

function LAZY.sender(facts)
  local name = facts[SENDER]
  return name and address(name, facts[SENDER_DOMAIN])
end

function LAZY.recipient(facts)
  local name = facts[RECIPIENT]
  return name and address(name, facts[RECIPIENT_DOMAIN])
end

function LAZY.recipients(facts)
  charge(1)
  local name, domain = py.recipients(facts[NUMBER])
  if domain then -- just one, as with most mails
    return { address(name, domain) }
  end
  local parts, out = list(name), {}
  for n = 1, #parts, 2 do
    out[#out + 1] = address(parts[n], parts[n + 1])
  end
  return out
end

function LAZY.headers(facts)
  local headers = setmetatable({}, HEADERS)
  owner[headers] = facts
  return headers
end

function LAZY.size(facts)
  return py.size(facts[NUMBER])
end

local METHODS = {} -- of mail: name -> function

function M.method(name, f)
  METHODS[name] = f
end

local FACTS = {}
function FACTS.__index(facts, key)
  if type(key) == "table" then
    return nil -- a key of ours without a value
  end
  local mask = FIELD[key]
  if not mask or mask >> facts[STAGE] & 1 == 0 then
    unknown("mail", key, facts[STAGE])
  end
  local make = LAZY[key]
  if METHODS[key] then
    return METHODS[key]
  elseif make then
    local value = make(facts)
    facts[key] = value
    return value
  end
end

local not_assignable = read_only("mail")

function M.begin(number, id, origin, ip, port, name, server, listener, helo, tls, user, sender, sender_domain, vars)
  local old = mails[number]
  if old then
    old[NUMBER] = -1 -- whatever of it a rule kept is nobody's now
  end
  local facts = setmetatable({
    id = FIELD.id and id, origin = FIELD.origin and origin, server = FIELD.server and server,
    listener = FIELD.listener and listener, helo = FIELD.helo and helo, tls = FIELD.tls and tls,
    user = FIELD.user and user,
    [NUMBER] = number, [IP] = ip, [PORT] = port, [NAME] = name, [TOUCHED] = false,
    [SENDER] = sender, [SENDER_DOMAIN] = sender_domain, [MAIL] = false, [STAGE] = 0, [ANY] = vars,
  }, FACTS)
  facts[MAIL] = setmetatable({}, {
    __index = facts,
    __newindex = not_assignable,
    __metatable = false,
    __name = "mail",
  })
  facts[RUN] = { number = number, facts = facts, stage = 0, rule = 1, used = 0, depth = 0, tracing = false, co = false }
  mails[number] = facts
end

function M.set(number, key, value) -- id, helo, tls, user: text, or nil where there is none
  mails[number][key] = FIELD[key] and value
end

function M.set_client(number, ip, port, name)
  local facts = mails[number]
  facts[IP], facts[PORT], facts[NAME], facts.client = ip, port, name, nil
end

function M.set_sender(number, name, domain)
  local facts = mails[number]
  facts[SENDER], facts[SENDER_DOMAIN], facts.sender = name, domain, nil
end

function M.set_recipient(number, name, domain)
  local facts = mails[number]
  facts[RECIPIENT], facts[RECIPIENT_DOMAIN] = name, domain
end

function M.forget_vars(number, any) -- they are others now; `any`: there are some
  local facts = mails[number]
  facts[ANY] = any
  facts[VARS], facts.vars, facts[TOUCHED] = nil, nil, false
end

function M.at(number, stage)
  local facts = mails[number]
  facts[STAGE] = stage
  facts.recipient, facts.recipients, facts.size = nil, nil, nil
  if facts[TOUCHED] then
    facts.vars, facts[TOUCHED] = nil, false
  end
  return facts[RUN]
end

function M.object(facts)
  return facts[MAIL]
end

function M.settle(facts)
  if facts[TOUCHED] then
    keep_vars(facts)
  end
end

function M.number(facts)
  return facts[NUMBER]
end

--- A rule has changed the envelope: what is shown of it from now on.
function M.envelope(facts, sender, sender_domain, recipient, recipient_domain)
  facts[SENDER], facts[SENDER_DOMAIN], facts.sender = sender, sender_domain, nil
  facts[RECIPIENT], facts[RECIPIENT_DOMAIN] = recipient, recipient_domain
  facts.recipient, facts.recipients = nil, nil
end

function M.stage(facts)
  return facts[STAGE]
end

--- Declare a word that begins with "mail". False when there is nothing behind it.
function M.declare(name, mask)
  MASK[name] = mask
  local method = name:match("^mail%.headers:([%w_]+)$")
  if method then
    visible[method] = methods[method]
    return methods[method] ~= nil
  end
  local own = name:match("^mail:([%w_]+)$")
  if own then
    FIELD[own] = mask
    return METHODS[own] ~= nil
  end
  local field = name:match("^mail%.([%w_]+)$")
  if field then
    FIELD[field] = mask
    known = field == "headers" and mask or known
  end
  return field ~= nil or name:match("^mail%.client%.") ~= nil or PART[name:match("^address%.([%w_]+)$")] ~= nil
end

return M
