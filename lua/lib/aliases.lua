-- Aliases: addresses that stand for others, read from a map (see lists.get), with extensions after a "+".
--
--   # lists/aliases.csv: who, to whom (several: "ann@example.test bob@example.test")
--   sales@example.test,   "ann@example.test bob@example.test"
--   postmaster@,          ann@example.test
--   @old.test,            ann@example.test
--   @older.test,          @example.test
--
-- sales+fair@example.test is looked for as it stands, then without its extension, which is then handed on: to
-- ann+fair@example.test and bob+fair@example.test. A target may be an alias again; what leads back is taken once. What
-- stands before the @ stays if the target has nothing there: x@older.test is x@example.test.
--
--   local aliases = require "aliases"
--   local targets = aliases.expand("aliases.csv", mail.recipient)
local aliases = {}

local MOST = 1000 -- addresses one alias may stand for
local DEEPEST = 20 -- aliases of aliases

local function targets_of(map, address)
  local found = lists.get(map, address)
  if found then
    return found, ""
  end
  local extension = mailbox.extension(address)
  if extension and extension ~= "" then
    return lists.get(map, mailbox.base(address)), extension
  end
end

local function extended(target, extension)
  if extension == "" or mailbox.extension(target) ~= "" then
    return target
  end
  return mailbox.join(mailbox.local_part(target) .. "+" .. extension, mailbox.domain(target)) or target
end

--- The addresses `address` stands for: a list of text, in order and each once; nil if it is no alias. Aliases that lead
--- to nobody but themselves stand for the address alone.
function aliases.expand(map, address)
  address = tostring(address):lower()
  local out, seen = {}, {}
  local function follow(one, deep)
    if seen[one] then
      return
    end
    seen[one] = true
    local text, extension = targets_of(map, one)
    if not text or deep > DEEPEST then
      out[#out + 1] = one
      return
    end
    for target in text:gmatch("[^%s,;]+") do
      if #out >= MOST then
        error("aliases: " .. address .. " stands for more than " .. MOST .. " addresses", 0)
      end
      if not target:find("@", 1, true) then -- a name alone: in the same domain
        target = target .. "@" .. (mailbox.domain(one) or "")
      elseif target:find("^@") then -- a domain alone: the same name there
        local name = mailbox.local_part(extension == "" and one or mailbox.base(one))
        target = mailbox.join(name, target:sub(2)) or target
      end
      target = extended(target, extension):lower()
      if target == one then -- it also keeps its own copy
        out[#out + 1] = one
      else
        follow(target, deep + 1)
      end
    end
  end
  if not targets_of(map, address) then
    return nil
  end
  follow(address, 0)
  return out[1] and out or { address }
end

return aliases
