-- Aliases with extensions, a copy of a child's mail for the parents, and senders that survive being passed on (SRS).
local aliases = require "aliases"
local srs = require "srs"

local OURS = "example.test"
local SECRET = env("SRS_SECRET") or "change me"

-- lists/aliases.csv tells who stands for whom; see lua/lib/aliases.lua.
on.rcpt("aliases", function(mail)
  local targets = aliases.expand("aliases.csv", mail.recipient)
  if targets then
    mail:replace_recipient(mail.recipient, targets[1])
    for n = 2, #targets do
      mail:add_recipient(targets[n])
    end
  end
end)

on.rcpt("bounces find the way back", function(mail)
  local back = srs.reverse(mail.recipient, SECRET)
  if back then
    mail:replace_recipient(mail.recipient, back)
  end
end)

on.preq("parents read along", function(mail)
  for _, recipient in ipairs(mail.recipients) do
    if recipient.local_part == "kid" then
      mail:add_recipient("parents@" .. OURS)
    end
  end
end)

-- What goes on to another server gets a sender of ours, so that SPF holds there.
on.postq("pass on with our name", function(mail)
  for _, recipient in ipairs(mail.recipients) do
    local sender = recipient.domain ~= OURS and mail.sender.domain ~= OURS and srs.forward(mail.sender, OURS, SECRET)
    if sender then
      mail:set_sender(sender)
      return
    end
  end
end)
