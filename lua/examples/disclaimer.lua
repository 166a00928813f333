-- What leaves us carries a text of the company; what comes from outside says so in its subject.
local disclaimer = require "disclaimer"

local TEXT = "Example Ltd, 1 Road, Town. This mail is meant for its recipients only."
local HTML = "<hr><p><small>Example Ltd, 1 Road, Town.<br>This mail is meant for its recipients only.</small></p>"

on.preq("a disclaimer under what leaves us", function(mail)
  if mail.user or mail.client.trusted then
    disclaimer(mail, TEXT, HTML)
  end
end)

on.preq("mark what comes from outside", function(mail)
  local subject = mail.headers:text("Subject") or ""
  if not mail.user and not mail.client.trusted and not subject:find("[external]", 1, true) then
    mail.headers:set_text("Subject", "[external] " .. subject)
  end
end)
