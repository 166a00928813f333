-- Mail that goes another way than the settings say.
--
--   mta.toml:  [rules]  mailboxes = ["lists"]     -- below which "mbox:..." and "maildir:..." lie

-- One domain's mail is filtered by another server first, which sends it back on a port of its own.
on.rcpt("filtered elsewhere", function(mail)
  if mail.recipient.domain == "filtered.test" then
    mail:route("smtp://127.0.0.1:10025?tls=none")
  end
end)

-- A list's archive is a file for each list.
on.rcpt("archives", function(mail)
  if mail.recipient.local_part:match("%-archive$") then
    mail:route("mbox:archive/{domain}/{local_part}")
  end
end)

-- Large mail to other servers waits for the night, when the line is free.
on.preq("large mail at night", function(mail)
  local hour = time.hour()
  if mail.size > 5000000 and mail.user and hour >= 6 and hour < 22 then
    mail:hold(tostring(22 - hour) .. "h")
  end
end)
