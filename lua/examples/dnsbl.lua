-- Clients that stand on lists in the DNS stay outside. Ask lists whose terms allow it, with a resolver of your own.
local dnsbl = require "dnsbl"

local asked = {
  { zone = "zen.example.test", codes = "127.0.0.2-127.0.0.11" }, -- enough on its own
  { zone = "bl.example.test", weight = 1 }, -- a hint
  { zone = "white.example.test", weight = -5 }, -- known to be good
}

on.connect("listed clients", function(mail)
  return dnsbl(mail, asked, { deny = 3, defer = 1 })
end)

-- Lists of domains work the same way: the sender's, as it was registered.
on.mail("listed senders", function(mail)
  local registered = domain.root(mail.sender.domain)
  if registered and dns.listed(registered, "dbl.example.test") then
    return deny("550 5.7.1 " .. registered .. " is listed by dbl.example.test")
  end
end)
