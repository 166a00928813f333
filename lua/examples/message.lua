-- Reading and changing a mail: its header, its addresses, its text.

-- A field may be asked for at any stage: this one is in every mail of the connection, whatever the mail itself says.
on.connect("where it comes from", function(mail)
  mail.headers:set("X-Client", mail.client.ip)
end)

on.preq("no lotteries", function(mail)
  local subject = mail.headers:text("Subject") or ""
  if subject:lower():find("you have won", 1, true) then
    return deny("550 5.7.1 No lotteries, please")
  end
end)

-- The old domain becomes the new one, in the header and on the envelope.
on.preq("one domain", function(mail)
  for _, from in ipairs(mail.headers:addresses("From")) do
    if from.domain == "old.example.test" then
      mail.headers:replace_address("From", from.address, from.local_part .. "@example.test")
    end
  end
  for _, to in ipairs(mail.headers:addresses("To")) do
    if to.domain == "old.example.test" then
      mail.headers:replace_address("To", to.address, to.local_part .. "@example.test")
    end
  end
  if mail.sender.domain == "old.example.test" then
    mail:set_sender(mail.sender.local_part .. "@example.test")
  end
end)

-- Replies to the shop go to the ticket system; a copy of what the shop writes is kept.
on.preq("the shop", function(mail)
  if mail.headers:get("From") and mail.headers:addresses("From")[1].local_part == "shop" then
    mail.headers:set_addresses("Reply-To", { "Example Shop <tickets@example.test>" })
    mail:bcc("archive@example.test")
    mail.headers:prepend("X-Archived", "yes")
  end
end)

on.preq("what mails say of themselves", function(mail)
  local names = {}
  for part in mail:parts() do
    names[#names + 1] = part.filename or part.type
  end
  log.info("mails", mail.size .. " bytes: " .. table.concat(names, ", "))
end)
