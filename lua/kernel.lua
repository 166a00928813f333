-- Runs rules so that nothing they do can hold the server: each stage call is a coroutine with a budget.
--
--   state of a run     how it gets there                         what leaves this file
--   running            start(), step()                           nothing: Lua is on the C stack, Python must not switch
--   waiting            a word called request()                   WAITS, word, up to four plain values
--   over               the stage decided, or no rule did         DONE, or DONE, kind, text, extra, rule, vars
--   broken             an error nobody caught                    BROKEN, message, where, traceback, rule
--   dead               a budget is used up                       the same; no pcall, xpcall or coroutine can catch it
--
-- The budget is counted by a hook every 1,000 instructions (one "unit"). What the hook cannot see costs units by hand:
-- C functions that copy much, errors swallowed by pcall, new coroutines, calls into Python. Known holes, each closed
-- here or in library.lua: the handler of xpcall and __gc run with hooks off; a new coroutine has no hook; deep pcall
-- keeps the hook from running. A table, function or coroutine never leaves: lupa crashes on values that outlive the
-- coroutine they came from.
local UNITS, GROWTH, CEILING = ... -- per resume: units, and KiB it may add; KiB of the runtime no run may pass

local yield, resume, create, running = coroutine.yield, coroutine.resume, coroutine.create, coroutine.running
local status, isyieldable = coroutine.status, coroutine.isyieldable
local sethook, getinfo = debug.sethook, debug.getinfo
local pcall, xpcall, error, type, tostring = pcall, xpcall, error, type, tostring
local collect, clock, time = collectgarbage, os.clock, os.time
local find, sub, format = string.find, string.sub, string.format
local getmetatable, setmetatable, concat = getmetatable, setmetatable, table.concat

local PERIOD = 1000 -- instructions between two looks: 100 costs double, 10,000 gains nothing
local SECONDS = 1.0 -- of CPU per resume, for what is slow without being many instructions; looked at once a second,
-- from the first look of the hook on
local DEEPEST = 100 -- pcall and resume inside each other; Lua's own C stack ends at 200
local DONE, WAITS, BROKEN = 0, 1, 2

local K = {}
local REQUEST, OVER = {}, {} -- private: a word waits; the stage is over
local TRUSTED = "=mta"

local run -- what is running now, or nil
local runs = {} -- the number of a transaction -> its waiting run
local left, limit, dead, depth = 0, 0, false, 0
local second, began
local inner = setmetatable({}, { __mode = "k" }) -- coroutine -> its own nesting

-- Errors that point at the rule ---------------------------------------------------------------------------------------

local function where(level) -- file:line of the innermost frame that is the rule author's
  for n = level, level + 50 do
    local info = getinfo(n, "Sl")
    if not info then
      return
    end
    if info.source ~= TRUSTED and info.currentline > 0 then
      return info.short_src .. ":" .. info.currentline
    end
  end
end

local function placed(message) -- turns a position inside our own files into the one that called them
  if type(message) == "string" then
    local _, stop = find(message, "^mta:%d+: ")
    if stop then
      local place = where(3)
      return (place and place .. ": " or "") .. sub(message, stop + 1)
    end
  end
  return message
end

function K.fail(message)
  local place = where(3)
  error((place and place .. ": " or "") .. message, 0)
end
local fail = K.fail

function K.here() -- "main.lua:12", for what is declared while files are loaded
  return where(3) or "?"
end

local function frames(co, skip)
  local lines, place = {}, nil
  for n = skip, 200 do
    local info = getinfo(co, n, "Sln")
    if not info then
      break
    end
    if info.source ~= TRUSTED and info.currentline > 0 then
      local at = info.short_src .. ":" .. info.currentline
      place = place or at
      if #lines < 10 then
        lines[#lines + 1] = at .. (info.name and info.name ~= "?" and " in " .. info.name or "")
      end
    end
  end
  return place, concat(lines, "\n")
end

-- Budgets -------------------------------------------------------------------------------------------------------------

local ENDED = {
  instructions = "the rule did not come to an end (rules.instructions)",
  time = "the rule did not come to an end (it computed for more than a second)",
  memory = "the rule took too much memory (rules.growth, rules.memory)",
}

local hook
local events = "" -- what besides the count calls the hook: "l" while somebody wants to know which lines run

local function die(why)
  dead = dead or why
  local co = running()
  sethook(co, hook, "", 1) -- every further instruction raises again
  error(ENDED[dead], 0)
end

local function room() -- is there, once the garbage is gone? A full collection is paid for.
  collect()
  local used = collect("count")
  left = left - used // 256
  return used <= limit
end

function hook()
  left = left - 1
  if dead or left <= 0 then
    die("instructions")
  elseif collect("count") > limit and not room() then
    die("memory")
  end
  local now = time()
  if now ~= second then
    second = now
    if not began then
      began = clock()
    elseif clock() - began > SECONDS then
      die("time")
    end
  end
end

--- From now on note every line that runs, at ten times the cost: for tests. What it returns tells them, a line each.
function K.cover()
  local seen, count = {}, hook
  function hook(event, line)
    if event ~= "line" then
      return count()
    end
    local info = getinfo(2, "S")
    if info.source ~= TRUSTED then
      seen[info.short_src .. ":" .. line] = true
    end
  end
  events = "l"
  return function()
    local out = {}
    for place in next, seen do
      out[#out + 1] = place
    end
    return concat(out, "\n")
  end
end

local function arm()
  left, dead = UNITS, false
  local now = collect("count")
  limit = now + GROWTH
  if limit > CEILING then
    limit = CEILING
  end
  second, began = 0, nil
end

--- Take `units` for work the hook cannot see, and look whether there is memory for what Python will push.
function K.charge(units)
  left = left - units
  if left <= 0 then
    die("instructions")
  elseif collect("count") > limit and not room() then
    die("memory")
  end
end
local charge = K.charge

-- Runs ----------------------------------------------------------------------------------------------------------------

local ACROSS = "attempt to yield across a C-call boundary"
local IN_CALLBACK = "what waits cannot be used inside a function given to table.sort or string.gsub, nor in __tostring"

local idle, idlers = {}, 0 -- coroutines that ended a stage well: a new one with its hook costs as much as a whole stage

local function over(r, ok, tag, a, b, c, d, e)
  local co = r.co
  run = nil
  if ok and not dead then
    if tag == OVER then
      r.co = false
      if idlers < 64 then
        idlers = idlers + 1
        idle[idlers] = co
      end
      if a then
        return DONE, a, b, c, d
      end
      return DONE
    end
    r.used, r.depth = r.used + (UNITS - left), depth
    runs[r.number] = r -- waiting: no other tag can come here, see coroutine.yield below
    return WAITS, a, b, c, d, e
  end
  local place, trace = frames(co, 0)
  local message = dead and ENDED[dead] or tag
  if type(message) ~= "string" then
    message = type(message) == "number" and tostring(message) or "the error is a " .. type(message) .. ", not text"
  end
  local _, stop = find(message, "^mta:%d+: ")
  message = stop and sub(message, stop + 1) or message
  if find(message, ACROSS, 1, true) then
    message = IN_CALLBACK
  elseif #message > 2000 then
    message = sub(message, 1, 2000) .. "..."
  end
  if message == "not enough memory" then
    message = ENDED.memory
  end
  r.co = false -- and with it everything the rule held
  return BROKEN, message, place or false, trace, r.rule or 0
end

local function worker(body, r)
  while true do
    body, r = yield(OVER, body(r))
  end
end

--- Run body(r) as a coroutine; `r` has `number` and `used` = 0, and `rule` where it says which rule is at work.
function K.start(body, r)
  local co
  if idlers > 0 then
    co, idle[idlers] = idle[idlers], nil
    idlers = idlers - 1
  else
    co = create(worker)
    sethook(co, hook, events, PERIOD)
  end
  r.co, run, depth = co, r, 0
  arm()
  return over(r, resume(co, body, r))
end

--- Go on with a waiting run: what the word it called gets as its answer.
function K.step(number, a, b)
  local r = runs[number]
  runs[number] = nil
  run, depth = r, r.depth
  arm()
  return over(r, resume(r.co, a, b))
end

--- Who waits: the line, and the rule.
function K.waiter(number)
  local r = runs[number]
  local place = frames(r.co, 0)
  return place or false, r.rule
end

--- A waiting run ends here; whoever waited for it has gone.
function K.drop(number)
  runs[number] = nil
end

function K.now()
  return run
end

function K.collect()
  collect()
end

function K.used(r)
  return r.used + (UNITS - left)
end

--- Ask Python for what takes time; the answer is what step() is given.
function K.request(word, a, b, c, d)
  K.may_wait(word)
  return yield(REQUEST, word, a, b, c, d)
end

--- Whether a rule is at work that could wait here.
function K.can_wait()
  return run ~= nil and not run.loading and isyieldable()
end

--- A word that may have to wait is refused where it could not, also when it would not: a rule must not work with small
--- mails only.
function K.may_wait(word)
  if not run or run.loading then
    fail(word .. " cannot be used while the rules are loaded")
  elseif not isyieldable() then
    fail(IN_CALLBACK)
  end
end

-- What rules see of Lua's own control functions -----------------------------------------------------------------------

local S = {}
K.control = S

local function enter()
  if depth >= DEEPEST then
    fail("too many calls of pcall inside each other")
  end
  depth = depth + 1
end

local function swallow() -- an error costs a unit to whoever survives it
  if dead then
    die(dead)
  end
  charge(1)
end

local function after(level, ok, ...)
  depth = level
  if dead then
    die(dead)
  end
  if not ok then
    swallow()
  end
  return ok, ...
end

function S.pcall(f, ...)
  local level = depth
  enter()
  return after(level, xpcall(f, placed, ...))
end

local function handled(level, handler, ok, e, ...)
  depth = level
  if dead then
    die(dead)
  end
  if ok then
    return true, e, ...
  end
  swallow()
  local _, said = S.pcall(handler, e) -- here, not inside xpcall: there hooks are off
  return false, said
end

function S.xpcall(f, handler, ...)
  local level = depth
  enter()
  return handled(level, handler, xpcall(f, placed, ...))
end

function S.setmetatable(t, mt)
  if type(t) ~= "table" then
    fail("setmetatable needs a table")
  elseif type(mt) == "table" and rawget(mt, "__gc") ~= nil then
    fail("__gc is not allowed: finalizers run where no limit reaches them")
  end
  return setmetatable(t, mt)
end

function S.getmetatable(t)
  if type(t) == "table" then
    return getmetatable(t)
  end
end

local co = { status = status, isyieldable = isyieldable }
S.coroutine = co

-- The coroutine a stage runs in serves another mail afterwards: who could resume it then would be given that mail.
local stage = create(function() end)
resume(stage)

function co.running()
  local thread = running()
  if not run or thread == run.co then
    return stage, true
  end
  return thread, false
end

function co.create(f)
  if type(f) ~= "function" then
    fail("coroutine.create needs a function")
  end
  charge(1) -- else many short ones would never be counted
  local new = create(f)
  sethook(new, hook, events, PERIOD)
  return new
end

function co.yield(...)
  if not run or running() == run.co then
    fail("coroutine.yield was called outside a coroutine of the rule's own")
  end
  return yield(...)
end

local continue
local asking = setmetatable({}, { __mode = "k" }) -- coroutines in which a word waits for its answer

local function answer(thread, ...)
  asking[thread] = nil
  return continue(thread, ...)
end

local function passing(level, thread, ok, tag, ...)
  inner[thread] = depth - level - 1
  depth = level
  if dead then
    die(dead)
  end
  if ok and tag == REQUEST and status(thread) ~= "dead" then -- a word waits in there: hand it on, then the answer back
    asking[thread] = true
    return answer(thread, yield(REQUEST, ...))
  end
  if not ok then
    swallow()
  end
  return ok, tag, ...
end

function continue(thread, ...)
  local level = depth
  depth = level + (inner[thread] or 0)
  enter()
  return passing(level, thread, resume(thread, ...))
end

local function go(thread, ...)
  if asking[thread] then -- its mail is over; what it is given now would be taken for the answer
    swallow()
    return false, "cannot resume a coroutine that waits for an answer"
  end
  return continue(thread, ...)
end

function co.resume(thread, ...)
  if type(thread) ~= "thread" then
    fail("coroutine.resume needs a coroutine")
  end
  return go(thread, ...)
end

local function checked(ok, e, ...)
  if not ok then
    error(e, 0)
  end
  return e, ...
end

function co.wrap(f)
  local thread = co.create(f)
  return function(...)
    return checked(go(thread, ...))
  end
end

return K
