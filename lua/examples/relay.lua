-- Who may send through this server, and as whom. Trusted clients ([server] trusted) and authenticated users may write to
-- everybody, all others to our own domains only; these rules say more.
local branch = "198.51.100.0/24" -- an office of ours with a server of its own

on.rcpt("the branch office writes to our partner through us", function(mail)
  if net.inside(mail.client.ip, branch) and domain.below(mail.recipient.domain, "partner.example") then
    return relay()
  end
end)

on.mail("users write as themselves", function(mail)
  if mail.user and mail.sender.domain ~= "" and not mailbox.same(mail.user, mail.sender) then
    return deny("553 5.7.1 You are " .. mail.user .. ", so you cannot send as " .. tostring(mail.sender))
  end
end)
