"""All sorts of clients at once, polite and rude, whose mails make rules do all sorts of things.

The HELO name says what the rules of RULES shall do with a client's mails; `DEEDS` are what clients do. Same seed, same
crowd.
"""

from __future__ import annotations

import base64
import random
import socket
import ssl
import struct
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import mails
from gevent.pool import Pool

PATIENCE = 60.0


def moods(seed: int) -> dict[str, Callable[[int], str]]:
    """What a FakeSmtp says that is sometimes busy, sometimes rude, and mostly takes mail; each connection its own."""
    dice = random.Random(seed)

    def mostly(reply: str, *others: str) -> Callable[[int], str]:
        return lambda connection: reply if dice.random() < 0.9 else dice.choice(others)

    return {
        "greeting": mostly("220 far.test ESMTP", "421 4.3.2 Busy", "554 5.3.2 Go away", "close", "reset"),
        "EHLO": mostly("250-far.test\r\n250 SIZE 100000000", "250-far.test\r\n250 PIPELINING", "reset"),
        "MAIL": mostly("250 2.1.0 Ok", "451 4.3.0 Later", "550 5.7.1 Not you", "close"),
        "RCPT": mostly("250 2.1.5 Ok", "450 4.2.0 Later", "550 5.1.1 Nobody", "reset"),
        "DATA": mostly("354 Go on", "451 4.3.0 Later", "close"),
        "dot": mostly("250 2.0.0 Ok", "451 4.3.0 Later", "554 5.6.0 Not that", "reset", "close"),
    }


RULES = """
local function wanted(name)
  return function(mail) return mail.helo and mail.helo:find(name, 1, true) end
end

on.connect("a look", function(mail) mail.vars.seen = 1 end)
on.helo("refused by name", function(mail)
  if mail.helo == "refused.test" then return deny("550 5.7.1 Not you") end
end)
on.authenticate("ann", function(mail)
  local shown = mail.credentials
  if shown.user == "ann" and shown.password == "secret" then return accept() end
end)
on.mail("counted", function(mail)
  store.increment("from " .. (mail.sender.domain or ""), 1, "1m")
  if mail.sender.local_part == "broken" then error("a mistake") end
end)
on.rcpt("known", function(mail)
  if mail.recipient.local_part == "nobody" then return deny("550 5.1.1 Unknown") end
  if mail.recipient.local_part == "asked" and not dns.lookup("known.test") then return defer() end
end)
on.data("begun", function(mail) mail.vars.begun = #mail.recipients end)
on.preq("all parts", function(mail)
  local names = {}
  for part in mail:parts() do
    names[#names + 1] = part.filename
    if part.type == "text/plain" then mail.vars.text = #(part:text() or "") end
  end
  mail.vars.names = #names
end)
on.preq("changed", function(mail)
  mail.headers:set_text("Subject", "[seen] " .. (mail.headers:text("Subject") or ""))
  if wanted("footer")(mail) then mail:footer("Ours, since 1999.", "<p>Ours</p>") end
  if wanted("attach")(mail) then mail:attach("text/csv", ("1;2;3\\n"):rep(1000), "numbers.csv") end
  if wanted("enclose")(mail) then mail:enclose("See inside.") end
  if wanted("discard")(mail) then return discard() end
  if wanted("deny")(mail) then return deny() end
  if wanted("loop")(mail) then while true do end end
  if wanted("eat")(mail) then
    local eaten = {}
    for n = 1, 1e9 do eaten[n] = tostring(n):rep(1000) end
  end
end)
on.delivery("not at once", function(mail)
  if wanted("later")(mail) and not mail.vars.tried then
    mail.vars.tried = 1
    return defer()
  end
end)
"""

HELOS = ["client.test"] * 8 + [
    *("footer.test", "attach.test", "enclose.test", "discard.test", "deny.test", "refused.test", "later.test"),
]
TOKEN = base64.b64encode(b"\0ann\0secret").decode()


class Client:
    """One connection: `say` sends, `hear` reads a whole reply. OSError when the server has hung up."""

    def __init__(self, port: int) -> None:
        self.sock = socket.create_connection(("127.0.0.1", port), PATIENCE)
        self.file = self.sock.makefile("rb")
        self.hear()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()
        self.sock.close()

    def hear(self) -> bytes:
        while (line := self.file.readline())[3:4] == b"-":
            pass
        if not line:
            raise ConnectionError("the server hung up")
        return line[:3]

    def ask(self, text: str | bytes) -> bytes:
        self.sock.sendall(text if isinstance(text, bytes) else text.encode() + b"\r\n")
        return self.hear()

    def tls(self, context: ssl.SSLContext) -> None:
        self.ask("STARTTLS")
        self.file.close()
        self.sock = context.wrap_socket(self.sock)
        self.file = self.sock.makefile("rb")

    def mail(self, text: bytes, sender: str = "ann@client.test", recipients: tuple[str, ...] = ("bob",)) -> bytes:
        self.ask(f"MAIL FROM:<{sender}>")
        for name in recipients:
            self.ask(f"RCPT TO:<{name if '@' in name else f'{name}@demo.test'}>")
        if (code := self.ask("DATA")) != b"354":
            return code
        return self.ask(text.replace(b"\r\n.", b"\r\n..").removesuffix(b"\r\n") + b"\r\n.\r\n")


class Crowd:
    """`run(many)`: so many conversations, some at the same time. `codes` counts how mails were answered."""

    def __init__(self, port: int, submission: int, seed: int) -> None:
        self.port, self.submission = port, submission
        self.dice = random.Random(seed)
        self.maker = mails.Maker(seed)
        self.codes: Counter[bytes] = Counter()
        self.hung_up = 0
        self.context = ssl.create_default_context()
        self.context.check_hostname, self.context.verify_mode = False, ssl.CERT_NONE
        self.samples = [path.read_bytes() for path in sorted(Path(mails.MESSAGES).glob("*.eml"))]

    def run(self, many: int, at_once: int = 20) -> None:
        pool = Pool(at_once)
        for _ in range(many):
            pool.spawn(self._one, self.dice.choice(DEEDS), self.dice.choice(HELOS))
        pool.join(raise_error=True)

    def _one(self, deed: Callable[[Crowd, Client, str], None], helo: str) -> None:
        try:
            with Client(self.submission if deed is Crowd.over_tls else self.port) as client:
                deed(self, client, helo)
        except OSError:
            self.hung_up += 1

    def text(self) -> bytes:
        """A mail: made up, or one of the samples with its line ends made right."""
        if self.dice.random() < 0.7:
            return self.maker.mail().raw
        return b"\r\n".join(self.dice.choice(self.samples).replace(b"\r", b"").split(b"\n"))

    def count(self, code: bytes) -> None:
        self.codes[code] += 1

    # -- what clients do ---------------------------------------------------------------------------------------------

    def one_mail(self, client: Client, helo: str) -> None:
        client.ask(f"EHLO {helo}")
        self.count(client.mail(self.text()))
        client.ask("QUIT")

    def many_mails(self, client: Client, helo: str) -> None:
        client.ask(f"EHLO {helo}")
        for n in range(self.dice.randrange(2, 10)):
            self.count(client.mail(self.text(), recipients=("bob", "nobody", "asked", f"u{n}")))
        client.ask("QUIT")

    def to_others(self, client: Client, helo: str) -> None:
        client.ask(f"EHLO {helo}")
        for n in range(self.dice.randrange(1, 4)):
            self.count(client.mail(self.text(), recipients=("bob", f"u{n}@far.test", f"v{n}@far.test")))
        client.ask("QUIT")

    def large_mail(self, client: Client, helo: str) -> None:
        client.ask(f"EHLO {helo}")
        line = b"x" * 998 + b"\r\n"
        self.count(client.mail(b"Subject: large\r\n\r\n" + line * self.dice.randrange(1100, 3000)))

    def over_tls(self, client: Client, helo: str) -> None:
        client.ask(f"EHLO {helo}")
        client.tls(self.context)
        client.ask(f"EHLO {helo}")
        client.ask(f"AUTH PLAIN {TOKEN if self.dice.random() < 0.7 else 'AAAA'}")
        self.count(client.mail(self.text()))
        client.ask("QUIT")

    def mistakes(self, client: Client, helo: str) -> None:
        client.ask(f"EHLO {helo}")
        self.count(client.mail(b"Subject: x\r\n\r\n", sender="broken@client.test"))
        for text in ("XYZZY", "MAIL FROM:<>", "MAIL FROM:<>", "RCPT", "RSET", "VRFY bob", "A" * 3000):
            client.ask(text)

    def cut_off(self, client: Client, helo: str) -> None:
        client.ask(f"EHLO {helo}")
        client.ask("MAIL FROM:<ann@client.test>")
        client.ask("RCPT TO:<bob@demo.test>")
        client.ask("DATA")
        client.sock.sendall(self.text()[: self.dice.randrange(1, 2000)])
        self.hang_up(client)

    def hang_up(self, client: Client, helo: str = "") -> None:
        if self.dice.random() < 0.5:
            client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    def noise(self, client: Client, helo: str) -> None:
        client.sock.sendall(self.dice.randbytes(self.dice.randrange(1, 5000)))

    def runaway(self, client: Client, helo: str) -> None:
        client.ask(f"EHLO {self.dice.choice(('loop.test', 'eat.test'))}")
        self.count(client.mail(self.text()))


DEEDS = [
    *[Crowd.one_mail] * 10,
    *[Crowd.many_mails] * 4,
    *[Crowd.over_tls] * 3,
    *[Crowd.to_others] * 6,
    *(Crowd.large_mail, Crowd.mistakes, Crowd.cut_off, Crowd.hang_up, Crowd.noise, Crowd.runaway),
]
