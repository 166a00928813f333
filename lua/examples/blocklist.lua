-- Lists of our own, in files that are read again as soon as they change.
--
--   lists/blocked.txt     one a line: spammer@example.org   example.org   .example.org   198.51.100.0/24
--   lists/replies.csv     who, what they are told:          partner.test, "450 4.7.1 Please use port 587"
lists.load("blocked.txt")
lists.load("replies.csv")

on.connect("blocked clients", function(mail)
  if lists.has("blocked.txt", mail.client.ip) then
    return deny()
  end
end)

on.mail("blocked senders", function(mail)
  if lists.has("blocked.txt", mail.sender) then
    return deny("550 5.7.1 Your mail is not welcome here")
  end
end)

on.mail("told what to do", function(mail)
  local text = lists.get("replies.csv", mail.sender)
  if text then
    return reply(text)
  end
end)

on.preq("words in the subject", function(mail)
  local subject = mail.headers:text("Subject") or ""
  if regex.matches(subject, [[(?i)\b(v[i1]agra|c[i1]al[i1]s)\b]]) then
    return quarantine("words")
  end
end)
