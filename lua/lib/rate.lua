-- How much somebody may send: limits by client, network, user, sender, recipient, at any stage that knows them.
--
--   local rate_limits = require "rate"
--   on.rcpt("not too much at once", function(mail)
--     return rate_limits(mail, { network = "100/1m", user = "500/1d", recipient = "60/1h" })
--   end)
--
-- At rcpt every recipient counts, at mail or preq every mail. A limit is the whole server's. Who is over it gets a 450
-- with the time after which there is room again; `reply` gives another text.
local who = {}

function who.client(mail)
  return mail.client.ip
end

function who.network(mail)
  return net.network(mail.client.ip)
end

function who.user(mail)
  return mail.user
end

function who.sender(mail)
  return tostring(mail.sender):lower()
end

function who.sender_domain(mail)
  return mail.sender.domain
end

function who.recipient(mail)
  return tostring(mail.recipient):lower()
end

function who.recipient_domain(mail)
  return mail.recipient.domain
end

local order = { "client", "network", "user", "sender", "sender_domain", "recipient", "recipient_domain" }

--- Nothing for a mail within the limits, else a verdict.
return function(mail, limits)
  for name in pairs(limits) do
    if name ~= "reply" and not who[name] then
      error("rate: there is no limit by " .. tostring(name) .. "; there are " .. table.concat(order, ", "), 2)
    end
  end
  for _, name in ipairs(order) do
    local limit = limits[name]
    local key = limit and who[name](mail)
    if key and key ~= "" then -- a stranger has no user, a bounce has no sender
      local within, wait = rate(name .. "/" .. key, limit)
      if not within then
        wait = math.ceil(math.min(wait, 86400))
        return defer(limits.reply or "450 4.7.1 Too much mail (" .. name .. "); room again in " .. wait .. " seconds")
      end
    end
  end
end
