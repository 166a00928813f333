-- Limits on how much may come in: from a network, from one of our users, for one mailbox.
-- They hold for the whole server, however many workers it has, and over a restart.
local limits = require "rate"

on.rcpt("not too much at once", function(mail)
  return limits(mail, { network = "100/1m", user = "500/1d", recipient = "60/1h" })
end)

-- The word behind it, for a rule of your own: who asks for many unknown mailboxes may not come back for an hour.
on.connect("guessing addresses", function(mail)
  if store.get("guessing/" .. mail.client.ip) then
    return deny{"554 5.7.1 Too many unknown recipients, come back in an hour", close = true}
  end
end)

on.rcpt("count guesses", function(mail)
  local known = lists.has("mailboxes.txt", mail.recipient)
  if not known and not rate("guess/" .. mail.client.ip, "10/1h") then
    store.set("guessing/" .. mail.client.ip, true, "1h")
    return deny{"550 5.1.1 No such mailbox", close = true}
  end
end)
