-- Lists of clients in the DNS (RFC 5782): refuse, or ask to come again, who stands on enough of them.
--
--   local dnsbl = require "dnsbl"
--   local lists = {
--     { zone = "zen.example.test", codes = "127.0.0.2-127.0.0.11" },
--     { zone = "bl.example.test", weight = 1 },
--     { zone = "white.example.test", weight = -5 },
--   }
--   on.connect("listed clients", function(mail)
--     return dnsbl(mail, lists, { deny = 3 })
--   end)
--
-- A list counts with its `weight` (3 unless given) when it answers with one of its `codes` (any, unless given). A list
-- that cannot be asked counts nothing: its trouble must not become our customers'.
local defaults = {
  deny = 3, -- the sum from which a client is refused
  defer = nil, -- and from which it is asked to come again
  reply = "5.7.1 Your address %s is listed by %s",
}

local function ours(mail) -- our own people write from addresses at home, which stand on such lists rightly
  if mail.listener ~= "relay" or mail.client.trusted then
    return true
  end
  local known, user = pcall(function()
    return mail.user
  end)
  return known and user
end

--- Nothing for a client that may come in, else a verdict. At any stage; the client's address is asked for.
return function(mail, lists, options)
  options = setmetatable(options or {}, { __index = defaults })
  local ip = mail.client.ip
  if ours(mail) or net.is_private(ip) then
    return
  end
  local sum, names = 0, {}
  for _, list in ipairs(lists) do
    local codes, why = dns.listed(ip, list.zone, list.codes)
    if codes then
      local weight = list.weight or 3
      sum = sum + weight
      if weight > 0 then
        names[#names + 1] = list.zone
      end
    elseif why then
      log.info(list.zone .. ": " .. why)
    end
  end
  local text = options.reply:format(ip, table.concat(names, ", "))
  if sum >= options.deny then
    return deny("554 " .. text)
  elseif options.defer and sum >= options.defer then
    return defer("450 " .. text:gsub("^5", "4"))
  end
end
