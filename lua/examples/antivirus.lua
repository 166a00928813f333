-- Mails with a virus wait for a person; mails nobody could look at come again later.
--
--   [service.clamscan]
--   type = "program"
--   arguments = ["clamscan", "--no-summary", "-"]
--   stdin = "mail"
--   codes = [0, 1]        # clean, infected; 2 is an error: the mail is deferred
--   timeout = "20s"       # less than rules.wall
on.preq("no viruses", function(mail)
  local scan = service.clamscan()
  if scan.code == 1 then
    local found = scan.stdout:match("stdin: ([^\n]*) FOUND") or "unknown"
    mail.headers:prepend("X-Virus", found)
    log.warning("virus " .. found .. " from " .. mail.client.ip)
    return quarantine("virus")
  end
end)
