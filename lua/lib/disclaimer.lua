-- A text under every mail, in its plain and its HTML form, once.
--
--   local disclaimer = require "disclaimer"
--   disclaimer(mail, "This mail is confidential.", "<p>This mail is <b>confidential</b>.</p>")
--
-- What is signed or encrypted is left as it is, and the text attached. Bounces and reports of machines stay without.
return function(mail, text, html)
  if mail.vars.disclaimer or mail.sender.domain == "" or mail:part("").type == "multipart/report" then
    return false
  end
  mail.vars.disclaimer = true
  if mail:footer(text, html) == 0 then
    mail:attach("text/plain", text, "disclaimer.txt")
  end
  return true
end
