-- A mail address as rules hold it: two fields, compared without regard to case, and text where text is wanted.
local O, J = ... -- objects, JSON
local tostring, rawget, setmetatable, find, gsub = tostring, rawget, setmetatable, string.find, string.gsub

local A = {}
local LOCAL, DOMAIN = {}, {}
local FIELDS = { local_part = LOCAL, domain = DOMAIN }
local ADDRESS = O.record("address", FIELDS)

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

ADDRESS[J.PLAIN] = ADDRESS.__tostring

function ADDRESS.__eq(a, b)
  return rawget(a, DOMAIN) == rawget(b, DOMAIN) and rawget(a, LOCAL):lower() == rawget(b, LOCAL):lower()
end

function ADDRESS.__concat(a, b)
  return tostring(a) .. tostring(b)
end

function A.new(name, domain)
  return setmetatable({ [LOCAL] = name, [DOMAIN] = domain }, ADDRESS)
end

--- Declare a field. False when there is nothing behind it.
function A.declare(field)
  return FIELDS[field] ~= nil
end

return A
