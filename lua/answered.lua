-- The words Python answers: their arguments checked, the question asked, the answer put into Lua's shape.
local K, C, M, H, P, J, V, py = ... -- the kernel, crossing, the mail object, its headers, parts, JSON, verdicts, Python
local fail, charge, now, request = K.fail, K.charge, K.now, K.request
local type, tostring, next, getmetatable = type, tostring, next, debug.getmetatable
local find, gmatch, concat, pack = string.find, string.gmatch, table.concat, table.pack
local several = C.several
local impl, words = V.impl, V.words

local LARGEST_TEXT = 1 << 20 -- bytes of one text handed to Python

local A = {}

local function is_address(value)
  local meta = type(value) == "table" and getmetatable(value)
  return meta and meta.__name == "address"
end

--- A list of text, or the keys and values of a table, as one text: "5:hello3:you".
local function many(word, n, value, keys)
  local out, size = {}, 0
  local function add(one)
    if is_address(one) or P.is(one) or type(one) == "number" or type(one) == "boolean" then
      one = tostring(one)
    elseif type(one) ~= "string" then
      fail(word .. ": argument " .. n .. " holds a " .. type(one) .. "; it takes text, numbers and booleans")
    end
    size = size + #one
    if size > LARGEST_TEXT then
      fail(word .. ": argument " .. n .. " holds more than " .. LARGEST_TEXT .. " bytes")
    end
    out[#out + 1] = #one .. ":" .. one
  end
  for key, one in next, value do
    if keys then
      if type(key) ~= "string" then
        fail(word .. ": argument " .. n .. " needs names as keys, not a " .. type(key))
      end
      add(key)
    end
    add(one)
  end
  charge(1 + (size >> 10))
  return concat(out)
end

local function argument(word, n, kind, value)
  local wanted = kind:match("^[%a|]+")
  if value == nil and kind:find("?", 1, true) then
    return nil
  elseif find(kind, "[]", 1, true) then -- a list; one alone needs no braces
    local one = type(value) ~= "table" or is_address(value)
    return many(word, n, one and { value } or value, false)
  elseif wanted == "table" then -- no table crosses the border
    if type(value) ~= "table" or is_address(value) then
      fail(word .. ": argument " .. n .. " must be a table, not " .. (is_address(value) and "an address" or type(value)))
    end
    return many(word, n, value, true)
  elseif find(wanted, "|", 1, true) then -- one of several types
    wanted = find("|" .. wanted .. "|", "|" .. type(value) .. "|", 1, true) and type(value) or wanted:gsub("|", " or ")
  elseif wanted == "string" and is_address(value) then
    value = tostring(value)
  elseif wanted == "integer" then
    local whole = math.tointeger(value)
    if not whole then
      fail(word .. ": argument " .. n .. " must be a whole number, not " .. type(value))
    end
    return whole
  end
  if type(value) ~= wanted then
    fail(word .. ": argument " .. n .. " must be a " .. wanted .. ", not " .. type(value))
  elseif wanted == "string" and #value > LARGEST_TEXT then
    fail(word .. ": argument " .. n .. " is longer than " .. LARGEST_TEXT .. " bytes")
  end
  return value
end

--- value | several | list | record: names and values | json | none: nil and why | wrong: the rule's mistake
local function given(tag, value)
  if tag == "list" then
    return C.list(value)
  elseif tag == "several" then
    return several(value)
  elseif tag == "record" then
    local items, out = pack(several(value)), {}
    for i = 1, items.n, 2 do
      out[items[i]] = items[i + 1]
    end
    return out
  elseif tag == "part" then
    return P.object(value)
  elseif tag == "parts" then
    return P.list(value)
  elseif tag == "envelope" then
    local answer, sender, sender_domain, recipient, recipient_domain = several(value)
    M.envelope(now().facts, sender, sender_domain, recipient, recipient_domain)
    return answer
  elseif tag == "json" then
    charge(#value >> 10)
    return J.decode(value)
  elseif tag == "none" then
    return nil, value
  elseif tag == "wrong" then
    fail(value)
  end
  return value
end

--- The arguments of a word, checked; a unit for each 64 KB that Python will keep.
local function arguments(name, kind, a, b, c)
  if kind[1] then
    a = argument(name, 1, kind[1], a)
  end
  if kind[2] then
    b = argument(name, 2, kind[2], b)
  end
  if kind[3] then
    c = argument(name, 3, kind[3], c)
  end
  local bytes = (type(a) == "string" and #a or 0) + (type(b) == "string" and #b or 0)
  charge(1 + (bytes >> 16))
  return a, b, c
end

--- What a word's arguments must be: "string string?" -> {"string", "string?"}
local function kinds_of(text)
  local out = {}
  for one in gmatch(text, "%S+") do
    out[#out + 1] = one
  end
  return out
end

local function number_of(mail, word)
  local r = now()
  if not r or r.loading or mail ~= r.mail then
    fail(word .. " is called with a colon, on the mail the rule was given")
  end
  return r.number
end

local CHANGES = { -- words that change which parts there are
  replace = true, remove = true, before = true, after = true, attach = true, wrap = true, enclose = true, sign = true,
  encrypt = true, decrypt = true, set_bytes = true, set_text = true,
}

--- A word about the mail, one of its parts, or the headers of either. `inner`: Python may answer it at once.
function A.of_mail(name, kinds, waits, inner)
  kinds = kinds_of(kinds)
  local home, member = name:match("^([%a.]+):([%w_]+)$")
  local changes = home ~= "mail.headers" and CHANGES[member]
  local function ask(number, part, a, b, c)
    a, b, c = arguments(name, kinds, a, b, c)
    if waits then
      K.may_wait(name)
    end
    if changes then
      P.edited()
    end
    local tag, value = "later", nil
    if inner then
      tag, value = py.ask_mail(number, name, part, a, b, c)
    end
    if tag == "later" then
      tag, value = request(name, part, a, b, c)
    end
    return given(tag or "wrong", value)
  end
  local function of_part(self, a, b, c)
    local number, part = P.who(self, name)
    return ask(number, part, a, b, c)
  end
  if home == "part" then
    P.method(member, of_part)
  elseif home == "mail.headers" then
    P.header_method(member, of_part)
    H.method(member, function(self, a, b, c)
      return ask(H.number_of(self, member), 0, a, b, c)
    end)
  else
    M.method(member, function(self, a, b, c)
      return ask(number_of(self, name), 0, a, b, c)
    end)
  end
end

--- A word of mail.headers that is answered without `ask` there; a part's headers have it, too.
function A.of_part_headers(name, kinds)
  kinds = kinds_of(kinds)
  P.header_method(name:match(":([%w_]+)$"), function(self, a, b)
    local number, part = P.who(self, name)
    return given(py.ask_mail(number, name, part, arguments(name, kinds, a, b)))
  end)
end

--- A word whose work Python does: `kinds` is "string string?" and so on, three arguments at most. One that does not wait
--- knows nothing of the mail, so it may also be used while the rules are loaded.
function A.asked(name, kinds, waits)
  kinds = kinds_of(kinds)
  local home, last = impl, name
  local folder, member = name:match("^(%w+)%.([%w_]+)$")
  if folder then
    impl[folder] = impl[folder] or {}
    home, last = impl[folder], member
  end
  local function ask(a, b, c)
    a, b, c = arguments(name, kinds, a, b, c)
    if waits then
      return given(request(name, a, b, c))
    end
    local r = now()
    if r and not r.loading and words[name] >> r.stage & 1 == 0 then
      fail(py.wrong_stage(name, r.stage))
    end
    local tag, value = py.ask(name, K.can_wait(), a, b, c)
    if tag == "later" then
      tag, value = request(name, a, b, c)
    end
    return given(tag, value)
  end
  local method = name:match("^mail:([%w_]+)$")
  if method then
    M.method(method, function(self, a, b, c)
      number_of(self, name)
      return ask(a, b, c)
    end)
  else
    home[last] = ask
  end
end

impl.json = { -- decode is one of those above
  encode = function(value)
    local text = J.public(value)
    charge(#text >> 10)
    return text
  end,
}

return A
