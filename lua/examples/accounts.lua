-- Who may log in, and so send mail to anybody: the accounts of this machine, as saslauthd knows them.
--
--   [service.saslauthd]
--   type = "program"
--   arguments = ["testsaslauthd", "-u{user}", "-p{password}"]
--   codes = [0, 255]      # yes; no, or saslauthd does not run
--   timeout = "5s"
--
-- While it runs other users of the machine can see its arguments; keep them off it, or ask a program that reads stdin.
on.authenticate("accounts of this machine", function(mail)
  local shown = mail.credentials
  local answer = service.saslauthd { user = shown.user, password = shown.password }
  if answer.code == 0 then
    return accept()
  elseif not answer.stdout:find("NO", 1, true) then
    return defer()
  end
end)
