-- What leaves for a partner is signed with our key, and encrypted if we have the certificate of every recipient.
-- What comes from there is opened and its signature looked at. Keys lie in the folder [keys] names: NAME.pem.
local partner = "example.com"
local ours = "you@example.test"

on.postq("sign and encrypt for the partner", function(mail)
  for _, recipient in ipairs(mail.recipients) do
    if recipient.domain ~= partner then
      return
    end
  end
  mail:sign("smime", ours)
  if mail:can_encrypt("smime", mail.recipients) then
    mail:encrypt("smime", mail.recipients)
  end
end)

on.preq("open what the partner encrypted", function(mail)
  if mail.sender.domain ~= partner then
    return
  end
  mail.headers:remove("X-Signed-By")
  mail:decrypt("smime", ours) -- nil if it was not encrypted at all
  local seal = mail:verify("smime", "root")
  if seal and not seal.ok then
    return deny("550 5.7.1 The signature of this mail is not good")
  elseif seal then
    mail.headers:prepend("X-Signed-By", seal.addresses)
  end
end)
