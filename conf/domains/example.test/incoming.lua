-- Mail from outside for example.test and the domains below it. rules/main.lua has spoken before.
-- Stages: rcpt data preq postq delivery.

on.rcpt("only our people write to staff", function(mail)
  if mail.recipient.local_part == "staff" then
    return deny("550 5.7.1 Only our own people write to this address")
  end
end)
