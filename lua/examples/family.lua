-- A family's own domain: a parent reads along, some domains may not write, and what children get from people nobody
-- knows waits for a parent (`mta queue list` shows it, `mta queue release ID` lets it go).
--
--   lists/banned.txt      .casino.example
--   lists/friends.txt     grandma@example.com   @school.example
lists.load("banned.txt")
lists.load("friends.txt")

local parents = { kim = "jane@doe.test", alex = "john@doe.test" } -- child -> who reads along

on.mail("banned domains", function(mail)
  if lists.has("banned.txt", mail.sender) then
    return deny("550 5.7.1 Your domain may not write to this family")
  end
end)

on.preq("a parent reads along", function(mail)
  local strange = not mail.user and not lists.has("friends.txt", mail.sender)
  local wait = false
  for _, recipient in ipairs(mail.recipients) do
    local parent = recipient.domain == "doe.test" and parents[recipient.local_part:lower()]
    if parent then
      mail:add_recipient(parent)
      wait = wait or strange
    end
  end
  if wait then
    return quarantine("unknown")
  end
end)
