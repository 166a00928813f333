-- The world rules live in: the declared words and nothing else, read-only once the files are loaded.
--
-- Each file has globals of its own, written while it is loaded: a global assigned later would be seen by the mails of
-- every other customer of this worker. All files share the words, whose tables are read-only, so no private copies.
local K, L, A, M, vars, P, J, V, py = ... -- the kernel, library, addresses, mail, its vars, parts, JSON, verdicts, Python
local fail, start, keep_vars = K.fail, K.start, vars.keep
local type, tostring, next, select, setmetatable = type, tostring, next, select, setmetatable
local load, dump, getmetatable, concat = load, string.dump, debug.getmetatable, table.concat
local find, unpack = string.find, table.unpack
local impl, words, content = V.impl, V.words, V.content

local X = {}
local W = {} -- the words, as rules see them
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
  if find(name, "^mail[.:]") or name == "mail" then
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
  if folder == "address" then
    return A.declare(member)
  elseif folder == "on" then
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
  return start(start_file, { number = 0, loading = true, chunk = chunk, used = 0 })
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
  local mail, tracing = r.mail, r.tracing
  for n = first, last do
    r.rule = n + before
    local used = tracing and K.used(r)
    local returned = list[n](mail)
    if r.touched then
      keep_vars(r.facts)
    end
    if returned ~= nil or tracing then
      local said = returned ~= nil and (content[returned] or odd(returned))
      if tracing then
        py.traced(r.number, n + before, said and said[1] or "next", K.used(r) - used)
      end
      if said and said[1] ~= "next" then
        return said[1], said[2], said[3], n + before
      end
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

--- Let the rules of a stage speak; from the rule `first` on, as far as `last`.
function X.start(number, stage, first, tracing, last)
  local r = M.at(number, stage)
  r.rule, r.tracing, r.last, r.used = first or 1, tracing, last, 0
  return start(judge, r)
end

--- The same for main.lua and the `book`th of the domains' files.
function X.start_both(number, stage, first, tracing, last, book)
  local r = M.at(number, stage)
  r.rule, r.tracing, r.last, r.used = first, tracing, last, 0
  r.book, r.accepted = book, first > 1 and r.accepted
  return start(judge_both, r)
end

--- For the trusted files that only a trial loads.
X.inner = { words = W, rules = rules, content = content, compile = compile, metatable = getmetatable }

return X
