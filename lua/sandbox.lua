-- The world rules live in: the declared words and nothing else, read-only once the files are loaded.
--
-- Each file has globals of its own, written while it is loaded: a global assigned later would be seen by the mails of
-- every other customer of this worker. All files share the words, whose tables are read-only, so no private copies.
local K, L, M, py, J, P = ... -- the kernel, the library, the mail object, Python's functions, JSON, parts
local fail, charge, now, request = K.fail, K.charge, K.now, K.request
local type, tostring, next, select, setmetatable = type, tostring, next, select, setmetatable
local load, dump, getmetatable, concat = load, string.dump, debug.getmetatable, table.concat
local find, gmatch, sub, tonumber = string.find, string.gmatch, string.sub, tonumber
local pack, unpack = table.pack, table.unpack

local LARGEST_TEXT = 1 << 20 -- bytes of one text handed to Python

local X = {}
local W = {} -- the words, as rules see them
local words = {} -- name of a declared word -> bit set of its stages
local loading = true
local rules = {} -- stage number -> its rules in order, those of main.lua
local books = {} -- the same for each file of a domain, by its number
local writing = rules -- the one that is being loaded

local function lock(values, name)
  return setmetatable({}, {
    __index = values,
    __newindex = function(_, key)
      fail(name .. "." .. tostring(key) .. " cannot be assigned: " .. name .. " is read-only")
    end,
    __pairs = function()
      local key
      return function()
        local value
        key, value = next(values, key)
        return key, value
      end
    end,
    __metatable = false,
    __name = name,
  })
end

-- Verdicts ------------------------------------------------------------------------------------------------------------

local impl = {}
local VERDICT = {
  __metatable = false,
  __name = "verdict",
  __newindex = function()
    fail("a verdict cannot be changed")
  end,
}
local content = setmetatable({}, { __mode = "k" }) -- a verdict -> {kind, text, close or folder}; out of the rule's reach

local function verdict(kind, text, extra)
  local made = setmetatable({}, VERDICT)
  content[made] = { kind, text, extra }
  return made
end

local function at_stage(word)
  local r = now()
  if not r or r.loading then
    fail(word .. "() belongs inside a rule")
  elseif words[word] >> r.stage & 1 == 0 then
    fail(py.wrong_stage(word, r.stage))
  end
  return r
end

local function replying(kind)
  impl[kind] = function(said, ...)
    local r = at_stage(kind)
    local text, close = said, false
    if select("#", ...) > 0 then
      fail(kind .. " takes one text; a list of lines stands in braces: " .. kind .. '{"...", "..."}')
    elseif type(said) == "table" then
      local lines = {}
      for n = 1, #said do
        lines[n] = type(said[n]) == "string" and said[n] or fail(kind .. ": line " .. n .. " is not text")
      end
      for key in next, said do
        if key ~= "close" and math.type(key) ~= "integer" then
          fail(kind .. " does not know " .. tostring(key) .. "; it takes lines of text and close = true")
        end
      end
      close, text = said.close and true or false, lines[1] and concat(lines, "\n")
    end
    if text ~= nil then
      if type(text) ~= "string" then
        fail(kind .. " needs text, not " .. type(text))
      end
      local wrong = py.check_reply(kind, text, close)
      if wrong then
        fail(wrong)
      end
    elseif kind == "reply" then
      fail('reply needs the text of a reply: reply("450 4.7.1 Not now")')
    end
    return verdict(kind, text or false, close)
  end
end
for kind in gmatch("accept faccept deny defer reply", "%a+") do
  replying(kind)
end

function impl.quarantine(name)
  at_stage("quarantine")
  if type(name) ~= "string" or not find(name, "^%w[%w._-]*$") or #name > 64 then
    fail('quarantine needs a name of letters, digits, ".", "-" and "_": quarantine("viruses")')
  end
  return verdict("quarantine", false, name)
end

function impl.discard()
  at_stage("discard")
  return verdict("discard", false, false)
end

local NEXT = verdict("next", false, false)

-- `next` is also Lua's own function, which always has an argument
function impl.next(...)
  if select("#", ...) > 0 then
    return next(...)
  end
  at_stage("next")
  return NEXT
end

function impl.relay()
  py.relay(at_stage("relay").number)
  return NEXT
end

-- What is said to the log ---------------------------------------------------------------------------------------------

local function say(level, message, topic)
  if topic ~= nil and (type(topic) ~= "string" or #topic > 100) then
    fail("log." .. level .. " needs a topic of at most 100 bytes as its first argument, then the message")
  end
  if type(message) ~= "string" then
    message = tostring(message)
  end
  if #message > 8192 then
    message = sub(message, 1, 8192) .. "..."
  end
  charge(1 + (#message >> 10))
  local r = now()
  py.say(r and r.number or -1, level, r and r.rule or 0, K.here(), message, topic)
end

local log = {}
for level in gmatch("debug info warning error", "%a+") do
  log[level] = function(topic, message)
    if message == nil then
      topic, message = nil, topic
    end
    say(level, message, topic)
  end
end
impl.log = log

function impl.print(...)
  local out = {}
  for n = 1, select("#", ...) do
    out[n] = tostring((select(n, ...)))
  end
  say("info", concat(out, "\t"))
end

-- Words Python answers ------------------------------------------------------------------------------------------------

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

--- Several values from one text: "s" text, "n" number, "b1" or "b0", "-" nil.
local function several(text)
  local items = M.list(text)
  local n = #items
  for i = 1, n do
    local kind, rest = sub(items[i], 1, 1), sub(items[i], 2)
    if kind == "s" then
      items[i] = rest
    elseif kind == "n" then
      items[i] = tonumber(rest)
    elseif kind == "b" then
      items[i] = rest == "1"
    else
      items[i] = nil
    end
  end
  return unpack(items, 1, n)
end

--- value | several | list | record: names and values | json | none: nil and why | wrong: the rule's mistake
local function given(tag, value)
  if tag == "list" then
    return M.list(value)
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

local CHANGES = { -- words that change which parts there are
  replace = true, remove = true, before = true, after = true, attach = true, wrap = true, enclose = true, sign = true,
  encrypt = true, decrypt = true, set_bytes = true, set_text = true,
}

--- A word about the mail, one of its parts, or the headers of either. `inner`: Python may answer it at once.
function X.of_mail(name, kinds, waits, inner)
  local kind = {}
  for one in gmatch(kinds, "%S+") do
    kind[#kind + 1] = one
  end
  local home, member = name:match("^([%a.]+):([%w_]+)$")
  local changes = home ~= "mail.headers" and CHANGES[member]
  local function ask(number, part, a, b, c)
    a, b, c = arguments(name, kind, a, b, c)
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
    M.header_method(member, function(self, a, b, c)
      return ask(M.headers_of(self, member), 0, a, b, c)
    end)
  else
    M.method(member, function(self, a, b, c)
      local r = now()
      if not r or r.loading or self ~= M.object(r.facts) then
        fail(name .. " is called with a colon, on the mail the rule was given")
      end
      return ask(r.number, 0, a, b, c)
    end)
  end
end

--- A word of mail.headers that is answered without `ask` there; a part's headers have it, too.
function X.of_part_headers(name, kinds)
  local kind = {}
  for one in gmatch(kinds, "%S+") do
    kind[#kind + 1] = one
  end
  P.header_method(name:match(":([%w_]+)$"), function(self, a, b)
    local number, part = P.who(self, name)
    return given(py.ask_mail(number, name, part, arguments(name, kind, a, b)))
  end)
end

--- A word whose work Python does: `kinds` is "string string?" and so on, three arguments at most. One that does not wait
--- knows nothing of the mail, so it may also be used while the rules are loaded.
function X.asked(name, kinds, waits)
  local kind = {}
  for one in gmatch(kinds, "%S+") do
    kind[#kind + 1] = one
  end
  local home, last = impl, name
  local folder, member = name:match("^(%w+)%.([%w_]+)$")
  if folder then
    impl[folder] = impl[folder] or {}
    home, last = impl[folder], member
  end
  local function ask(a, b, c)
    if kind[1] then
      a = argument(name, 1, kind[1], a)
    end
    if kind[2] then
      b = argument(name, 2, kind[2], b)
    end
    if kind[3] then
      c = argument(name, 3, kind[3], c)
    end
    charge(1)
    if waits then
      return given(request(name, a, b, c))
    end
    local r = now()
    if r and not r.loading and words[name] >> r.stage & 1 == 0 then
      fail(py.wrong_stage(name, r.stage))
    end
    return given(py.ask(name, a, b, c))
  end
  local method = name:match("^mail:([%w_]+)$")
  if method then
    M.method(method, function(self, a, b, c)
      local r = now()
      if not r or r.loading or self ~= M.object(r.facts) then
        fail(name .. " is called with a colon, on the mail the rule was given")
      end
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

-- What rules know of the settings ---------------------------------------------------------------------------------------

local function frozen(value, name)
  if type(value) ~= "table" then
    return value
  end
  for key, one in next, value do
    value[key] = frozen(one, name .. "." .. tostring(key))
  end
  local made = lock(value, name)
  getmetatable(made).__len = function()
    return #value
  end
  return made
end

--- config and replies, as JSON.
function X.facts(config, replies)
  impl.config, impl.replies = J.decode(config), J.decode(replies)
  for name, section in next, impl.config do
    impl.config[name] = frozen(section, "config." .. name)
  end
end

-- Files ---------------------------------------------------------------------------------------------------------------

local function world_of(file, extra)
  local own = setmetatable(extra, { __index = W })
  local env
  env = setmetatable({}, {
    __index = own,
    __newindex = function(_, key, value)
      if not loading then
        fail("a rule cannot assign the global " .. tostring(key) .. ": use a local, mail.vars or store")
      elseif W[key] ~= nil or key == "_G" or key == "on" then
        fail(tostring(key) .. " is a word of the server; use another name")
      end
      own[key] = value
    end,
    __pairs = function()
      return next, {}
    end,
    __metatable = false,
    __name = file,
  })
  own._G = env
  return env
end

--- Compile one file. Its `return f()` become plain calls (see lines.py), so that an error there knows its line.
local function compile(text, file, env)
  local chunk, message = load(text, "@" .. file, "t", env)
  if not chunk then
    return nil, message
  end
  return load(py.with_lines(dump(chunk)), "@" .. file, "b", env)
end

local modules, underway = {}, {} -- name -> {what it returned}; those being loaded, in order

function impl.require(name)
  if type(name) ~= "string" then
    fail("require needs the name of a module")
  elseif modules[name] then
    return modules[name][1]
  elseif not loading then
    fail('require "' .. name .. '" belongs at the top of the file, outside any rule')
  end
  for _, one in ipairs(underway) do
    if one == name then
      fail('require "' .. name .. '" leads back to itself: ' .. concat(underway, " -> ") .. " -> " .. name)
    end
  end
  local text, file = py.source(name)
  if not text then
    fail(file)
  end
  local chunk, message = compile(text, file, world_of(file, {}))
  if not chunk then
    error(message, 0)
  end
  underway[#underway + 1] = name
  local value = chunk()
  underway[#underway] = nil
  modules[name] = { value == nil and true or value }
  return modules[name][1]
end

local on = setmetatable({}, {
  __index = function(_, key)
    fail(py.unknown("on", tostring(key), -1))
  end,
  __newindex = function()
    fail("rules are written on.STAGE(name, function(mail) ... end)")
  end,
  __metatable = false,
  __name = "on",
})

--- A stage exists; `number` is its place in the order of stages.
function X.stage(name, number)
  rules[number] = {}
  rawset(on, name, function(title, rule, ...)
    if not loading then
      fail("on." .. name .. " belongs at the top of a file, outside any rule")
    elseif type(title) ~= "string" or title == "" or #title > 200 then
      fail("on." .. name .. ' needs the name of the rule first: on.' .. name .. '("what it does", function(mail) ... end)')
    elseif type(rule) ~= "function" or select("#", ...) > 0 then
      fail("on." .. name .. '("' .. title .. '") needs a function(mail) ... end after the name')
    end
    local wrong = py.rule(number, title, K.here())
    if wrong then
      fail(wrong)
    end
    local list = writing[number] or {}
    writing[number] = list
    list[#list + 1] = rule
  end)
end

--- Declare a word: only now do rules see it. False when there is nothing behind it.
function X.word(name, mask)
  words[name] = mask
  if find(name, "^part[.:]") then
    return P.declare(name)
  end
  if find(name, "^mail[.:]") or find(name, "^address[.:]") or name == "mail" then
    return name == "mail" or M.declare(name, mask)
  end
  local folder, member = name:match("^(%w+)%.([%w_]+)$")
  if not folder then
    local value = impl[name]
    if value == nil then
      value = L[name]
    end
    W[name] = value
    return value ~= nil
  end
  if folder == "on" then
    return rawget(on, member) ~= nil
  end
  local from = impl[folder] or L[folder]
  local value = from and from[member]
  if value == nil then
    return false
  end
  local shown = rawget(W, folder) or {}
  W[folder], shown[member] = shown, value
  return true
end

--- All words are declared: their tables become read-only.
function X.declared()
  W.service = W.service or {} -- also where the settings have none: the error then names the one that is missing
  for name, value in next, W do
    if type(value) == "table" then
      if not L[name] then
        setmetatable(value, {
          __index = function(_, key)
            fail(py.unknown(name, tostring(key), -1))
          end,
        })
      end
      W[name] = lock(value, name)
    end
  end
  W._VERSION = L._VERSION
end

local function start_file(r)
  r.chunk()
end

--- Load a file of rules: main.lua, or the `book`th of the domains. Answers as start() of the kernel does.
function X.load(text, file, book)
  if book then
    writing = {}
    books[book] = writing
  end
  local chunk, message = compile(text, file, world_of(file, { on = on }))
  if not chunk then
    return 2, message, false, "", 0
  end
  return K.start(start_file, { number = 0, loading = true, chunk = chunk, used = 0 })
end

function X.loaded()
  loading = false
end

-- Stages --------------------------------------------------------------------------------------------------------------

local function odd(value)
  local what = type(value)
  if what == "number" or what == "boolean" then
    what = what .. " (" .. tostring(value) .. ")"
  elseif what == "string" then
    what = 'text; did it mean deny("...")?'
  end
  fail("the rule returned a " .. what .. "; a rule returns a verdict such as deny(...), or nothing")
end

local function ask(r, list, first, last, before) -- `before`: so many rules come before those of the list
  local facts, tracing = r.facts, r.tracing
  local mail = M.object(facts)
  for n = first, last do
    r.rule = n + before
    local used = tracing and K.used(r)
    local returned = list[n](mail)
    M.settle(facts)
    local said = returned ~= nil and (content[returned] or odd(returned))
    if tracing then
      py.traced(r.number, n + before, said and said[1] or "next", K.used(r) - used)
    end
    if said and said[1] ~= "next" then
      return said[1], said[2], said[3], n + before
    end
  end
end

local function judge(r)
  local list = rules[r.stage]
  return ask(r, list, r.rule, r.last or #list, 0)
end

-- Rules are counted through: those of main.lua, then those of the domain's file. An accept in main.lua ends its part,
-- and is the verdict if the domain's file has none.
local function judge_both(r)
  local list, more = rules[r.stage], books[r.book][r.stage] or {}
  local main = #list
  if r.rule <= main then
    local kind, text, extra, rule = ask(r, list, r.rule, r.last or main, 0)
    if r.last or (kind and kind ~= "accept") then
      return kind, text, extra, rule
    end
    r.accepted, r.rule = kind and { kind, text, extra, rule }, main + 1
  end
  local kind, text, extra, rule = ask(r, more, r.rule - main, (r.last or main + #more) - main, main)
  if not kind and r.accepted then
    return unpack(r.accepted, 1, 4)
  end
  return kind, text, extra, rule
end

--- Let the rules of a stage speak, from the rule `first` on, or as far as `last`.
function X.start(number, stage, first, tracing, last)
  local r = M.at(number, stage)
  r.stage, r.rule, r.tracing, r.last, r.used = stage, first, tracing, last, 0
  return K.start(judge, r)
end

--- The same for main.lua and the `book`th of the domains' files.
function X.start_both(number, stage, first, tracing, last, book)
  local r = M.at(number, stage)
  r.stage, r.rule, r.tracing, r.last, r.used = stage, first, tracing, last, 0
  r.book, r.accepted = book, first > 1 and r.accepted
  return K.start(judge_both, r)
end

--- For the trusted files that only a trial loads.
X.inner = { words = W, rules = rules, content = content, compile = compile, metatable = getmetatable }

return X
