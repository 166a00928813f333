-- What looks odd waits for a person: mta queue list --held odd, then show, release or delete.
on.preq("odd mail waits", function(mail)
  local froms = mail.headers:count("From")
  if froms ~= 1 then
    mail:dump("odd")
    log.warning("a mail with " .. froms .. " From fields from " .. mail.client.ip)
    return quarantine("odd")
  end
end)

-- A copy of everything our own people send, for as long as somebody keeps it.
on.preq("copies of what goes out", function(mail)
  if mail.user then
    mail:write("sent/" .. mail.user)
  end
end)
