-- Tests written in Lua: test("name", function(t) ... end). Each runs as a coroutine with a rule's limits; whatever `t` is
-- asked to do waits for Python, which has the session, and comes back as JSON.
local K, J, inner = ... -- the kernel, JSON, what sandbox.lua shows trusted files
local fail, request = K.fail, K.request
local type, tostring, select, setmetatable = type, tostring, select, setmetatable
local words, compile, concat = inner.words, inner.compile, table.concat

local PREQ = 6 -- where the words a test uses by itself stand

local T = {}
local tests = {} -- in order: {name, function}

local t = {}
setmetatable(t, {
  __index = function(_, name)
    return function(self, ...)
      if self ~= t then
        fail("t:" .. tostring(name) .. " is called with a colon")
      end
      local given = { n = select("#", ...) }
      for i = 1, given.n do
        given[tostring(i)] = select(i, ...)
      end
      local tag, value = request("t:" .. tostring(name), J.encode(given, "t:" .. tostring(name)))
      if tag == "fail" then
        fail(value)
      elseif value == nil then
        return t
      end
      return J.decode(value)[1]
    end
  end,
  __newindex = function()
    fail("t cannot be changed; use a local")
  end,
  __metatable = false,
})

local function test(name, f)
  if type(name) ~= "string" or type(f) ~= "function" then
    fail('a test is written test("what it shows", function(t) ... end)')
  end
  tests[#tests + 1] = { name, f, K.here() }
end

local function chunk_of(r)
  r.chunk()
end

--- Read a file of tests. Answers as K.start does.
function T.load(text, file)
  tests = {}
  local env = setmetatable({ test = test }, { __index = words })
  local chunk, wrong = compile(text, file, env)
  if not chunk then
    return 2, wrong, false, "", 0
  end
  return K.start(chunk_of, { number = 0, loading = true, chunk = chunk, used = 0 })
end

--- The names and places of its tests, as JSON.
function T.names()
  local out = {}
  for n, one in ipairs(tests) do
    out[n] = { one[1], one[3] }
  end
  return J.encode({ tests = out }, "tests")
end

local function play(r)
  tests[r.rule][2](t)
end

--- Begin test `n`.
function T.start(n)
  return K.start(play, { number = 0, used = 0, depth = 0, rule = n, stage = PREQ })
end

return T
