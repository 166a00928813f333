-- A policy for attachments: programs are taken out of what comes from outside, and refused from our own people; mails
-- whose parts cannot be told apart wait for a person.
local attachments = require "attachments"

on.preq("no programs by mail", function(mail)
  if mail.user then
    local found = attachments.find(mail, attachments.PROGRAMS)[1]
    if found then
      return deny("550 5.7.1 " .. found.name:gsub("[^%w._-]", "?") .. ": programs are not sent by mail")
    end
    return
  end
  local gone = attachments.remove(mail, attachments.PROGRAMS, "A program was removed here by the mail server.")
  if gone[1] then
    mail.headers:set_text("X-Removed", table.concat(gone, ", "))
    log.info("attachments", #gone .. " taken out: " .. table.concat(gone, ", "))
  end
end)

local SUSPICIOUS = {
  ["too deep"] = true,
  ["too many parts"] = true,
  ["too long to split"] = true,
  ["the header is too long"] = true,
}

on.preq("what cannot be read waits", function(mail)
  for part in mail:parts() do
    if SUSPICIOUS[part.flaw or ""] then
      return quarantine("unreadable")
    end
  end
end)

-- A large picture becomes a note that tells where it is.
on.preq("no large pictures", function(mail)
  for part in mail:parts("image/*") do
    if part.attachment and part.size > 5000000 then
      part:replace("text/plain", "A picture of " .. part.size // 1000000 .. " MB was removed here.")
    end
  end
end)
