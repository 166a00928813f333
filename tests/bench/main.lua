-- One rule at every stage, about five words of the API in each: what a benchmark round runs.
on.connect("bench connect", function(mail)
  local ip, port = mail.client.ip, mail.client.port
  if ip == "10.0.0.1" or port == 1 or mail.listener == "x" then return deny() end
  if mail.server == "x" then return deny() end
end)
on.helo("bench helo", function(mail)
  if mail.helo == "bad"
    or mail.client.ip == mail.helo
    or mail.tls == "x"
    or mail.listener == "y"
  then
    return deny()
  end
end)
on.mail("bench mail", function(mail)
  local sender = mail.sender
  if sender.domain == "spam.test"
    or sender.local_part == "x"
    or mail.helo == "x"
    or mail.client.ip == "x"
  then
    return deny()
  end
end)
on.rcpt("bench rcpt", function(mail)
  local r = mail.recipient
  if r.domain == "x"
    or r.local_part == "x"
    or mail.sender.domain == "y"
    or mail.helo == "y"
  then
    return deny()
  end
end)
on.data("bench data", function(mail)
  if #mail.recipients > 100
    or mail.sender.domain == "y"
    or mail.helo == "y"
    or mail.client.ip == "y"
  then
    return deny()
  end
end)
on.preq("bench preq", function(mail)
  local subject, from = mail.headers:get("Subject"), mail.headers:get("From")
  if subject == "spam" or from == "x" or mail.headers:has("X-Spam") then return deny() end
  mail.headers:append("X-Checked", "yes")
end)
on.postq("bench postq", function(mail)
  if mail.headers:get("To") == "x"
    or mail.headers:has("X-Bad")
    or mail.sender.domain == "y"
    or mail.client.ip == "y"
  then
    return deny()
  end
  local id = mail.headers:get("Message-Id")
end)
on.delivery("bench delivery", function(mail)
  if mail.headers:get("X-Checked") ~= "yes"
    or mail.sender.domain == "y"
    or #mail.recipients == 0
  then
    return defer()
  end
  local date = mail.headers:get("Date")
end)
