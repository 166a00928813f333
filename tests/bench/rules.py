"""What rules cost: microseconds of CPU per mail for one rule at each of nine stages, about five words in each.

python tests/bench/rules.py [MAILS]
"""

import sys
import tempfile
import time
from pathlib import Path

from mta import settings
from mta.message.address import Address
from mta.message.envelope import Client
from mta.message.message import Message
from mta.rules.engine.engine import Rules
from mta.rules.transaction import Transaction
from mta.rules.trying.example import MAIL, world
from mta.rules.verdict import STAGES

HERE = Path(__file__).parent
AUTHENTICATE = """
on.authenticate("bench authenticate", function(mail)
  if mail.user == "x" or mail.helo == "x" or mail.client.ip == "x" or mail.tls == "x" or mail.server == "x" then
    return deny()
  end
end)
"""


def one_mail(rules: Rules, content: bool = True) -> None:
    """A connection with one mail: the nine stages as the session and the queue run them."""
    run = rules.run
    client = Client(ip="192.0.2.7", port=40000, name="mail.example.com", listener="relay")
    connection = Transaction("k3v9x0a2bq-1", client, server="mx.example.test", listener="relay")
    run("connect", connection)
    connection.helo = "mail.example.com"
    run("helo", connection)
    run("authenticate", connection)
    mail = connection.mail("k3v9x0a2bq-1.1")
    mail.sender = Address("ann", "example.com")
    run("mail", mail)
    mail.recipient = Address("you", "example.test")
    run("rcpt", mail)
    mail.recipients = [mail.recipient]
    run("data", mail)
    mail.message = Message(MAIL)
    run("preq", mail)
    mail.close()
    queued = Transaction("k3v9x0a2bq-1", client, mail_id="k3v9x0a2bq-1.1", server="mx.example.test", listener="relay")
    queued.helo, queued.sender, queued.recipients, queued.message = (
        connection.helo,
        mail.sender,
        mail.recipients,
        mail.message,
    )
    queued.vars = mail.vars
    run("postq", queued)
    run("delivery", queued)
    queued.close()
    connection.close()


def cost(rules: Rules, mails: int) -> float:
    """Microseconds of CPU per mail, the best of five rounds."""
    best = float("inf")
    for _ in range(5):
        began = time.process_time()
        for _ in range(mails // 5):
            one_mail(rules)
        best = min(best, (time.process_time() - began) / (mails // 5) * 1e6)
    return best


def reading(mails: int) -> float:
    """Microseconds for what the rules of main.lua do with the header: the message's own work, none of the engine's."""
    began = time.process_time()
    for _ in range(mails):
        headers = Message(MAIL).headers
        for name in ("Subject", "From", "To", "Message-Id", "X-Checked", "Date"):
            headers.get(name)
        headers.has("X-Spam"), headers.has("X-Bad")
        headers.append("X-Checked", "yes")
    return (time.process_time() - began) / mails * 1e6


def load(text: str) -> Rules:
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "main.lua").write_text(text)
        return Rules.load(settings.Rules(path=folder), world())


def main() -> None:
    mails = int(sys.argv[1]) if len(sys.argv) > 1 else 20_000
    without = cost(load("-- no rules"), mails)
    full = cost(load((HERE / "main.lua").read_text() + AUTHENTICATE), mails)
    header = reading(mails)
    rules = full - without
    print(f"the frame alone, no rules     {without:6.1f} us a mail ({len(STAGES)} stages, 3 transactions)")
    print(f"with a rule at each stage     {full:6.1f} us a mail")
    print(f"reading the header            {header:6.1f} us, whoever asks for it")
    print(f"the engine                    {rules - header:6.1f} us a mail")


if __name__ == "__main__":
    main()
