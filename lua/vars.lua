-- mail.vars: plain values by name, read from Python when a rule first looks and given back, if they changed, after it.
local K, O, J, py = ... -- the kernel, objects, JSON, Python's functions
local fail, charge = K.fail, K.charge
local type, next, find, setmetatable = type, next, string.find, setmetatable
local NUMBER, RUN = O.NUMBER, O.RUN

local LARGEST = 65536 -- bytes of them as JSON

local vars = {}
local STATE = {} -- of a mail's facts: {store, text, dirty, nested, object}
vars.ANY = {} -- the same: Python has some
local ANY = vars.ANY

local state_of = setmetatable({}, { __mode = "k" }) -- a vars object -> its state
local VARIABLES = { __metatable = false, __name = "mail.vars" }

VARIABLES[J.PLAIN] = function(self)
  return state_of[self].store
end

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

--- The vars of a mail, for the rule that looks at them.
function vars.of(facts)
  facts[RUN].touched = true
  local state = facts[STATE]
  if not state then
    local text = facts[ANY] and py.vars(facts[NUMBER]) or nil
    state = {
      store = text and J.decode(text) or {},
      text = text,
      dirty = false,
      nested = text and find(text, "[%[{]", 2),
      object = setmetatable({}, VARIABLES),
    }
    state_of[state.object], facts[STATE] = state, state
  end
  return state.object
end

--- After a rule that looked at them: give Python what has changed.
function vars.keep(facts)
  local state = facts[STATE]
  if state.dirty or state.nested then -- a table inside may have been changed without our seeing it
    local text = J.encode(state.store, "mail.vars")
    state.dirty = false
    if text ~= (state.text or "{}") then
      if #text > LARGEST then
        fail("mail.vars would hold more than " .. LARGEST .. " bytes")
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

--- They are others now; `any`: there are some.
function vars.forget(facts, any)
  facts[ANY] = any
  facts[STATE], facts.vars, facts[RUN].touched = nil, nil, false
end

return vars
