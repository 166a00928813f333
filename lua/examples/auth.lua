-- Who may log in, and so send mail to anybody: the people of a list. Clients are offered it over TLS only.
--
--   lists/users.csv      name, salt, digest:   ann@example.test, k3v9, 1c16a4c5...
--
-- The salt is any word, another one for each name; the digest is what this prints:
--
--   printf %s "$password" | openssl dgst -sha256 -hmac "$salt" -r
--
-- Let nobody but the server read the list: who has it can try passwords as fast as a machine can.
local USERS, WRONG = "users.csv", "20/1h"
lists.load(USERS)

local function client(mail)
  return "wrong passwords " .. net.network(mail.client.ip)
end

on.authenticate("not after too many wrong passwords", function(mail)
  if not rate(client(mail), WRONG, 0) then
    return defer("454 4.7.0 Too many wrong passwords, try again later")
  end
end)

on.authenticate("people of the list", function(mail)
  local shown = mail.credentials
  local name = lists.get(USERS, shown.user, 1) or ""
  local salt = lists.get(USERS, shown.user, 2) or "nobody" -- a name that is not there takes as long as one that is
  local known = lists.get(USERS, shown.user, 3) or ""
  local right = digest.equal(digest.hmac("sha256", salt, shown.password), known)
  if right and name:lower() == shown.user:lower() then -- an entry may fit more than its own name
    return accept()
  end
end)

on.authenticate("wrong", function(mail)
  rate(client(mail), WRONG)
end)
