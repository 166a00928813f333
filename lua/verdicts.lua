-- What a rule decides and says: verdicts, relay(), and its lines in the log.
local K, py = ... -- the kernel, Python's functions
local fail, charge, now = K.fail, K.charge, K.now
local type, tostring, next, select, setmetatable = type, tostring, next, select, setmetatable
local concat, find, gmatch, sub = table.concat, string.find, string.gmatch, string.sub

local V = {}
local impl = {} -- a word -> what is behind it
local words = {} -- name of a declared word -> bit set of its stages, filled as they are declared
V.impl, V.words = impl, words

-- Verdicts ------------------------------------------------------------------------------------------------------------

local VERDICT = {
  __metatable = false,
  __name = "verdict",
  __newindex = function()
    fail("a verdict cannot be changed")
  end,
}
local content = setmetatable({}, { __mode = "k" }) -- a verdict -> {kind, text, close or folder}; out of the rule's reach
V.content = content

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
  local _, wrong = py.say(r and r.number or -1, level, r and r.rule or 0, K.here(), message, topic)
  if wrong then
    fail(wrong)
  end
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

return V
