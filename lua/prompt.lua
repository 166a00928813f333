-- Lines typed at the prompt. Each runs as one more rule of a stage, so it has a rule's world, limits and errors; what it
-- comes to is told as text, because no table may leave. Globals are kept for the next line.
local K, J, inner = ... -- the kernel, JSON, what sandbox.lua shows trusted files
local type, tostring, next, pairs, ipairs, pcall = type, tostring, next, pairs, ipairs, pcall
local format, rep, gsub, find, concat, pack = string.format, string.rep, string.gsub, string.find, table.concat, table.pack
local mathtype, sort, select = math.type, table.sort, select
local rules, content, words, compile, metatable = inner.rules, inner.content, inner.words, inner.compile, inner.metatable

local DEEPEST, MOST, LONGEST = 4, 100, 65536 -- levels, entries of a table, bytes of text that are shown

local P = {}
local fields = {} -- "mail" -> its fields at this stage
local mail, said
local own = {}
local env = setmetatable(own, {
  __index = function(_, key)
    if key == "mail" then
      return mail
    end
    return words[key]
  end,
})

local function quoted(text)
  if #text > LONGEST then
    text = text:sub(1, LONGEST) .. "..."
  end
  return '"' .. gsub(text, '[%c"\\]', function(c)
    return c == "\n" and "\\n" or c == "\r" and "\\r" or c == "\t" and "\\t" or c == '"' and '\\"' or c == "\\" and "\\\\"
      or format("\\x%02x", c:byte())
  end) .. '"'
end

local show

local function table_of(names, value, deep, seen)
  local out, indent = {}, rep("  ", deep + 1)
  for n, name in ipairs(names) do
    if n > MOST then
      out[#out + 1] = indent .. "... " .. (#names - MOST) .. " more"
      break
    end
    local ok, one = pcall(function()
      return value[name]
    end)
    if ok then
      local key = type(name) == "string" and (find(name, "^[%a_][%w_]*$") and name or "[" .. quoted(name) .. "]")
        or "[" .. tostring(name) .. "]"
      out[#out + 1] = indent .. key .. " = " .. show(one, deep + 1, seen)
    end
  end
  return concat(out, ",\n"), "\n" .. rep("  ", deep)
end

local function keys_of(value)
  local keys = {}
  for key in pairs(value) do
    keys[#keys + 1] = key
  end
  sort(keys, function(a, b)
    if type(a) == type(b) and (type(a) == "number" or type(a) == "string") then
      return a < b
    end
    return type(a) < type(b)
  end)
  return keys
end

function show(value, deep, seen)
  local kind = type(value)
  if kind == "string" then
    return quoted(value)
  elseif kind == "number" or kind == "boolean" or kind == "nil" then
    return tostring(value)
  elseif kind ~= "table" then
    return kind
  end
  local verdict = content[value]
  if verdict then
    local inside = verdict[2] and quoted(verdict[2]) or verdict[3] and type(verdict[3]) == "string" and quoted(verdict[3])
    return verdict[1] .. "(" .. (inside or "") .. ")"
  end
  local meta = metatable(value)
  local name = meta and type(meta.__name) == "string" and meta.__name
  if name == "address" then
    return "<" .. tostring(value) .. ">"
  elseif seen[value] then
    return "{ the same again }"
  elseif deep >= DEEPEST then
    return "{ ... }"
  end
  seen[value] = true
  local out
  if name and fields[name] then
    local inside, last = table_of(fields[name], value, deep, seen)
    out = name .. " {\n" .. inside .. last .. "}"
  else
    local keys = keys_of(value)
    local n = #keys
    if n == 0 then
      out = name and name .. " {}" or "{}"
    elseif n <= 8 and keys[n] == n and mathtype(keys[1]) == "integer" and keys[1] == 1 then
      local list, short = {}, 0
      for i = 1, n do
        list[i] = show(value[i], deep + 1, seen)
        short = short + #list[i]
      end
      out = short < 90 and "{ " .. concat(list, ", ") .. " }"
        or "{\n" .. rep("  ", deep + 1) .. concat(list, ",\n" .. rep("  ", deep + 1)) .. "\n" .. rep("  ", deep) .. "}"
    else
      local inside, last = table_of(keys, value, deep, seen)
      out = (name and name .. " " or "") .. "{\n" .. inside .. last .. "}"
    end
  end
  seen[value] = nil
  return out
end

--- The fields that are known now: ("mail", "id client sender").
function P.known(name, list)
  local out = {}
  for one in list:gmatch("%S+") do
    out[#out + 1] = one
  end
  fields[name] = out
end

--- Whether more lines are needed to make sense of it.
function P.unfinished(text)
  local chunk, wrong = compile("return " .. text, "prompt.lua", env)
  if chunk then
    return false
  elseif find(wrong, "near <eof>$") then
    return true
  end
  chunk, wrong = compile(text, "prompt.lua", env)
  return not chunk and find(wrong, "near <eof>$") ~= nil
end

--- Make a line the last rule of a stage: its number, or nil and what is wrong with it.
function P.put(stage, text)
  local chunk = compile("return " .. text, "prompt.lua", env)
  local wrong
  if not chunk then
    chunk, wrong = compile(text, "prompt.lua", env)
    if not chunk then
      return nil, wrong
    end
  end
  local list = rules[stage]
  said = nil
  list[#list + 1] = function(object)
    mail = object
    local found = pack(chunk())
    own._ = found[1]
    local out = {}
    for n = 1, found.n do
      out[n] = show(found[n], 0, {})
    end
    said = concat(out, "\t")
  end
  return #list
end

--- Take it out again: what it came to.
function P.take(stage)
  local list = rules[stage]
  list[#list] = nil
  return said or ""
end

--- What begins with `text` among the names somebody made at this prompt, and below a table of theirs.
function P.globals()
  local out = {}
  for key in next, own do
    if type(key) == "string" then
      out[#out + 1] = key
    end
  end
  return concat(out, " ")
end

return P
