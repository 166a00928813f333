-- Unknown senders come again: a real server does within minutes, most senders of junk never.
-- To use it, put these lines into rules/main.lua.
local greylist = require "greylist"

-- Who always comes in at once, one address, domain or network a line: lists/known.txt
lists.load("known.txt")

on.rcpt("greylist", function(mail)
  if lists.has("known.txt", mail.client.ip) or lists.has("known.txt", mail.sender) then
    return
  end
  return greylist(mail, { delay = "5m", keep = "36d" })
end)
