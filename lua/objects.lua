-- What all objects of a rule have in common: a field is read and never assigned, and one that does not exist, or is asked
-- for too early, is an error at the line that asked.
local K, py = ... -- the kernel, Python's functions
local fail = K.fail
local type, tostring, next, rawget = type, tostring, next, rawget

local O = {}

-- The facts of a mail, which are behind `mail`, have under these keys what no rule may see: a rule has no such key. Those
-- that only one file uses stand there.
O.NUMBER, O.STAGE, O.RUN = {}, {}, {} -- of the mail; under way, as a number; what kernel.lua starts

--- Python knows what to say of a field or method that is not there; without `stage`, at none.
function O.unknown(object, key, stage)
  fail(py.unknown(object, type(key) == "string" and key or "[" .. tostring(key) .. "]", stage or -1))
end
local unknown = O.unknown

function O.read_only(object, advice)
  return function(_, key)
    fail(object .. "." .. tostring(key) .. " cannot be assigned" .. (advice or ""))
  end
end

--- The metatable of small objects. `fields`: under which key of ours each field is kept.
function O.record(name, fields)
  local meta = { __metatable = false, __name = name, __newindex = O.read_only(name) }
  function meta.__index(object, key)
    local field = fields[key]
    if field then
      return rawget(object, field)
    end
    unknown(name, key)
  end
  function meta.__pairs(object)
    local out = {}
    for key, field in next, fields do
      out[key] = rawget(object, field)
    end
    return next, out
  end
  return meta
end

return O
