-- A server that takes and sends mail for those domains only that have rules of their own. To use it: rules/fallback.lua.
--
-- Without any rule the server relays for nobody but trusted clients and authenticated users. With this file it takes
-- nothing for, and sends nothing from, a domain of ours without a file for it: an empty domains/example.test/incoming.lua
-- opens example.test to mail from outside, outgoing.lua lets its people write to others, internal.lua to each other.
on.rcpt("nothing else is taken", function(mail)
  return deny("554 5.7.1 Relay access denied")
end)
