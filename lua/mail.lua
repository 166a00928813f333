-- The object `mail`: one table for each transaction, filled stage by stage, made of Lua alone. Python is asked only for
-- what is rare or changes: headers, recipients, size, vars. Everything shown is read-only; what may be changed has
-- methods. A field asked for too early, or one that does not exist, is an error at the line that asked.
local K, O, C, A, H, vars, py = ... -- the kernel, objects, crossing, addresses, headers, vars, Python's functions
local fail, charge, unknown, read_only = K.fail, K.charge, O.unknown, O.read_only
local type, setmetatable, address = type, setmetatable, A.new
local NUMBER, STAGE, RUN, ANY = O.NUMBER, O.STAGE, O.RUN, vars.ANY

local M = {}
local mails = {} -- number -> facts
local MASK = {} -- declared word -> bit set of the stages it is known at
local FIELD = {} -- declared field of `mail` -> the same

-- Keys of facts that only this file has (see objects.lua): what is shown is made of these
local IP, PORT, NAME, TRUSTED = {}, {}, {}, {}
local SENDER, SENDER_DOMAIN, RECIPIENT, RECIPIENT_DOMAIN = {}, {}, {}, {}

-- Fields that are made when a rule first asks -------------------------------------------------------------------------

local LAZY = { vars = vars.of, headers = H.new }

local CLIENT = O.record("mail.client", { ip = IP, port = PORT, name = NAME, trusted = TRUSTED })

function LAZY.client(facts)
  return setmetatable({
    [IP] = facts[IP], [PORT] = facts[PORT], [NAME] = facts[NAME], [TRUSTED] = facts[TRUSTED],
  }, CLIENT)
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
  local parts, out = C.list(name), {}
  for n = 1, #parts, 2 do
    out[#out + 1] = address(parts[n], parts[n + 1])
  end
  return out
end

--- What a client shows to log in. Every field is asked of Python when it is read: nothing of it stays here.
local function credentials(facts)
  return setmetatable({}, {
    __index = function(_, key)
      local mask = type(key) == "string" and MASK["mail.credentials." .. key]
      if not mask then
        unknown("mail.credentials", key)
      elseif mask >> facts[STAGE] & 1 == 0 then
        unknown("mail", "credentials", facts[STAGE])
      end
      charge(1)
      local value, message = py.credential(facts[NUMBER], key)
      if message then
        fail(message)
      end
      return value
    end,
    __newindex = read_only("mail.credentials"),
    __metatable = false,
    __name = "mail.credentials",
  })
end

-- The object ----------------------------------------------------------------------------------------------------------

local METHODS = {} -- of mail: name -> function

function M.method(name, f)
  METHODS[name] = f
end

local FACTS = {}
function FACTS.__index(facts, key)
  local mask = FIELD[key]
  if mask and mask >> facts[STAGE] & 1 == 1 then
    local make = LAZY[key]
    if make then
      local value = make(facts)
      facts[key] = value
      return value
    elseif key == "credentials" then
      return credentials(facts)
    elseif key == "size" then -- asked each time: every change of the mail changes it
      charge(1)
      return py.size(facts[NUMBER])
    end
    return METHODS[key]
  elseif type(key) ~= "table" then -- else a key of ours without a value
    unknown("mail", key, facts[STAGE])
  end
end

local not_assignable = read_only("mail")

function M.begin(
  number, id, origin, ip, port, name, server, listener, helo, tls, user, sender, sender_domain, recipient,
  recipient_domain, any, trusted
)
  local old = mails[number]
  if old then
    old[NUMBER] = -1 -- whatever of it a rule kept is nobody's now
  end
  local facts = setmetatable({
    id = FIELD.id and id, origin = FIELD.origin and origin, server = FIELD.server and server,
    listener = FIELD.listener and listener, helo = FIELD.helo and helo, tls = FIELD.tls and tls,
    user = FIELD.user and user,
    [NUMBER] = number, [IP] = ip, [PORT] = port, [NAME] = name, [TRUSTED] = trusted,
    [SENDER] = sender, [SENDER_DOMAIN] = sender_domain, [RECIPIENT] = recipient,
    [RECIPIENT_DOMAIN] = recipient_domain, [RUN] = false, [STAGE] = 0, [ANY] = any,
  }, FACTS)
  local mail = setmetatable({}, {
    __index = facts,
    __newindex = not_assignable,
    __metatable = false,
    __name = "mail",
  })
  facts[RUN] = {
    number = number, facts = facts, mail = mail, stage = 0, rule = 1, used = 0, depth = 0, tracing = false, co = false,
    touched = false, -- a rule looked at mail.vars
  }
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

function M.forget_vars(number, any)
  vars.forget(mails[number], any)
end

function M.at(number, stage)
  local facts = mails[number]
  local r = facts[RUN]
  facts[STAGE], r.stage = stage, stage
  facts.recipient, facts.recipients = nil, nil
  if r.touched then
    facts.vars, r.touched = nil, false
  end
  return r
end

--- A rule has changed the envelope: what is shown of it from now on.
function M.envelope(facts, sender, sender_domain, recipient, recipient_domain)
  facts[SENDER], facts[SENDER_DOMAIN], facts.sender = sender, sender_domain, nil
  facts[RECIPIENT], facts[RECIPIENT_DOMAIN] = recipient, recipient_domain
  facts.recipient, facts.recipients = nil, nil
end

--- Declare a word that begins with "mail". False when there is nothing behind it.
function M.declare(name, mask)
  MASK[name] = mask
  local method = name:match("^mail%.headers:([%w_]+)$")
  if method then
    return H.declare(method, mask)
  end
  local own = name:match("^mail:([%w_]+)$")
  if own then
    FIELD[own] = mask
    return METHODS[own] ~= nil
  end
  local field = name:match("^mail%.([%w_]+)$")
  if field then
    FIELD[field] = mask
  end
  local object = name:match("^mail%.(%w+)%.")
  return field ~= nil or object == "client" or object == "credentials"
end

return M
