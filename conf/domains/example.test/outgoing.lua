-- Mail of example.test's people that leaves it; the client is authenticated or trusted.
-- Stages: mail rcpt data preq postq delivery.

on.preq("what is marked internal stays inside", function(mail)
  if (mail.headers:get("Subject") or ""):lower():find("[internal]", 1, true) then
    return deny("550 5.7.1 This mail is marked as internal and has a recipient outside")
  end
end)
