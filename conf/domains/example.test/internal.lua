-- Mail from example.test's people to each other; the client is authenticated or trusted.
-- Stages: rcpt data preq postq delivery.

on.preq("mark mail from inside", function(mail)
  mail.headers:set("X-From-Inside", "yes")
end)
