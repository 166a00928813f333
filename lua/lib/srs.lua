-- The Sender Rewriting Scheme: mail we pass on gets a sender of ours, so that SPF holds, and its bounces find the way.
--
--   ann@a.test                          passed on by us.test becomes
--   SRS0=HASH=DAY=a.test=ann@us.test    passed on again by other.test becomes
--   SRS1=HASH=us.test==HASH=DAY=a.test=ann@other.test
--
-- HASH is keyed by our secret, so nobody can use us to send to addresses of their choice; DAY lets it expire.
--
--   local srs = require "srs"
--   local there = srs.forward(mail.sender, "us.test", secret)     at delivery, for mail that goes on
--   local back = srs.reverse(mail.recipient, secret)              at rcpt, for a bounce that comes in
local srs = {}

local ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"
local DAYS = 21 -- how long a bounce may take
local LONGEST = 64 -- RFC 5321 4.5.3.1.1: a local part

local function stamp(now)
  local day = now // 86400 % 1024
  return ALPHABET:sub(day // 32 + 1, day // 32 + 1) .. ALPHABET:sub(day % 32 + 1, day % 32 + 1)
end

local function fresh(text, now)
  local high, low = ALPHABET:find(text:sub(1, 1):upper(), 1, true), ALPHABET:find(text:sub(2, 2):upper(), 1, true)
  if #text ~= 2 or not high or not low then
    return false
  end
  local age = (now // 86400 - ((high - 1) * 32 + low - 1)) % 1024
  return age <= DAYS
end

-- Servers on the way may change capitals, so these make no difference.
local function hash(secret, text)
  return digest.hmac("sha256", secret, text:lower()):sub(1, 8)
end

local function address(said)
  local name, domain = mailbox.local_part(tostring(said)), mailbox.domain(tostring(said))
  if not name then
    return nil
  end
  return name, domain
end

--- The sender to pass a mail on with: text, or nil and why when it stays as it is.
function srs.forward(sender, our_domain, secret)
  local name, domain = address(sender)
  if not name then
    return nil, "no sender"
  elseif domain == our_domain:lower() then
    return nil, "the sender is ours"
  end
  local kind, rest = name:match("^[Ss][Rr][Ss]([01])[=+-](.+)$")
  local made
  if kind == "0" then
    rest = domain .. "=" .. name:sub(5)
    made = "SRS1=" .. hash(secret, rest) .. "=" .. rest
  elseif kind == "1" then -- only the first to pass it on matters: leave those between out
    local first = rest:match("^[^=]+=(.+)$")
    if not first then
      return nil, "no SRS1 address"
    end
    made = "SRS1=" .. hash(secret, first) .. "=" .. first
  else
    rest = stamp(time.now() // 1) .. "=" .. domain .. "=" .. name
    made = "SRS0=" .. hash(secret, rest) .. "=" .. rest
  end
  if #made > LONGEST then
    return nil, "the sender is too long"
  end
  return mailbox.join(made, our_domain)
end

--- The address a bounce to `recipient` is for: text, or nil and why. Only what we made ourselves is turned back.
function srs.reverse(recipient, secret)
  local name = address(recipient)
  local kind, mark, rest = (name or ""):match("^[Ss][Rr][Ss]([01])[=+-]([^=]+)=(.+)$")
  if not kind then
    return nil, "no SRS address"
  elseif not digest.equal(mark:lower(), hash(secret, rest)) then
    return nil, "not made here"
  end
  if kind == "1" then
    local domain, inner = rest:match("^([^=]+)=(.+)$")
    if not domain then
      return nil, "no SRS1 address"
    end
    return mailbox.join("SRS0" .. inner, domain)
  end
  local day, domain, old = rest:match("^([^=]+)=([^=]+)=(.+)$")
  if not day then
    return nil, "no SRS0 address"
  elseif not fresh(day, time.now() // 1) then
    return nil, "too old"
  end
  return mailbox.join(old, domain)
end

return srs
