-- The rules of this server: asked at each stage of every mail, in the order they stand here.
--
--   on.STAGE("what it does", function(mail) ... end)
--
--   stages    connect helo authenticate mail rcpt data preq postq delivery
--   verdicts  accept() faccept() deny("550 5.7.1 Why") defer("450 4.7.1 Why") quarantine("name") discard()
--             a rule that returns nothing leaves the decision to the next one
--
-- Save this file and the next mail meets the new rules. A rule that fails delays its mail and tells the log.
-- Rules of one domain stand in domains/NAME/incoming.lua, outgoing.lua and internal.lua, and are asked after these:
-- lua/REFERENCE.rst, "Files".

on.rcpt("nobody reads noreply", function(mail)
  if mail.recipient.local_part == "noreply" then
    return deny("550 5.7.1 Nobody reads this address")
  end
end)

-- Take the dashes away to see how a mail can be changed before it is kept:
--
-- on.preq("mark mail from outside", function(mail)
--   if not mail.user and not mail.headers:has("X-Origin") then
--     mail.headers:append("X-Origin", "outside, by " .. mail.client.ip)
--   end
-- end)
