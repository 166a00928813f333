-- Greylisting (RFC 6647): who is not known is asked to come again; a real mail server does, most spam senders do not.
--
--   unknown    first seen now               -> 451, remembered for `window`
--   waiting    came before `delay` was over -> 451
--   known      came after `delay`           -> passes, for `keep` after the last mail
--   trusted    a network with `trust` known senders passes with whatever it sends, for `keep` after the last mail
--
-- What is remembered is client network, sender and recipient: large senders retry from a neighbouring address.
--
--   local greylist = require "greylist"
--   on.rcpt("greylist", function(mail)
--     return greylist(mail, { delay = "5m" })
--   end)
local defaults = {
  delay = "5m", -- until a second attempt counts
  window = "2d", -- in which it must come
  keep = "36d", -- for those who passed: a monthly newsletter stays known
  trust = 5, -- so many known senders make a network trusted; 0: never
  bits4 = 24, -- how much of an IPv4 address is the network
  bits6 = 64, -- and of an IPv6 address
  reply = "451 4.7.1 Please come again, this server does not know you yet",
}

local DAY = 86400

local function today(now)
  return "since " .. now // DAY
end

-- Remember a visit, but write once a day, not at every mail.
local function renew(key, seen, now, keep)
  local value = today(now)
  if seen ~= value then
    store.set(key, value, keep)
  end
end

local function key_of(network, mail)
  local sender = tostring(mail.sender):lower()
  local recipient = tostring(mail.recipient):lower()
  return "greylist/" .. digest.sha256(network .. "\n" .. sender .. "\n" .. recipient)
end

--- Nothing for a mail that may pass, else a verdict. At rcpt.
return function(mail, options)
  options = setmetatable(options or {}, { __index = defaults })
  if mail.user or mail.client.trusted then
    return
  end
  local now = time.now() // 1
  local network = net.network(mail.client.ip, options.bits4, options.bits6)
  local trusted = "greylist/network/" .. network
  local known_senders = store.get(trusted)
  if type(known_senders) == "string" then -- trusted, and since when
    renew(trusted, known_senders, now, options.keep)
    return
  end

  local key = key_of(network, mail)
  local seen = store.get(key)
  if type(seen) == "string" then
    renew(key, seen, now, options.keep)
    return
  end
  if not seen then
    store.add(key, now, options.window)
    return defer(options.reply)
  end
  if now - seen < time.seconds(options.delay) then
    return defer(options.reply)
  end
  store.set(key, today(now), options.keep)
  if options.trust > 0 and store.increment(trusted, 1, options.keep) >= options.trust then
    store.set(trusted, today(now), options.keep)
  end
end
