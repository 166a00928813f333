"""A child for the power cuts: eight greenlets commit mails, and every acknowledgement is told at once on stdout.

    python committing.py SPOOL WRITER SYNC        SYNC "lie": sync nothing, to prove that the test can fail

Lines: `+ id size` acknowledged, `? id` a drop begins, `- id` its drop acknowledged.
"""

from gevent import monkey

monkey.patch_all(os=False, signal=False)

import os  # noqa: E402
import random  # noqa: E402
import sys  # noqa: E402

import gevent  # noqa: E402

from mta.message.envelope import Envelope  # noqa: E402
from mta.message.message import Message  # noqa: E402
from mta.message.reply import Refused  # noqa: E402
from mta.settings import Spool as Settings  # noqa: E402
from mta.spool.disk import Disk  # noqa: E402
from mta.spool.journal import JournalSpool  # noqa: E402
from mta.spool.spool import Mail, Settled  # noqa: E402

GREENLETS = 8


class Lying(Disk):
    def sync(self, fd: int) -> None:
        pass

    def sync_folder(self, path: str) -> None:
        pass


def text(id: str, size: int) -> bytes:
    return f"Subject: {id}\r\n\r\n".encode() + (id.encode() * (size // len(id) + 1))[:size]


def tell(line: str) -> None:
    os.write(1, f"{line}\n".encode())


def live(spool: JournalSpool, writer: str, name: int) -> None:
    dice = random.Random(name)
    kept: list[str] = []
    for n in range(1_000_000):
        id = f"{writer}-{name}.{n}"
        size = dice.choice([100, 4000, 20_000, 150_000])
        raw = text(id, size)
        message = Message(raw)
        if size > 100_000:
            body = spool.body()
            body.write(raw)
            message = body.finish()
        spool.commit(add=[Mail(Envelope(id=id, next_try=1.0), message)])
        tell(f"+ {id} {size}")
        kept.append(id)
        if n % 3 == 1:
            spool.commit(settle=[Settled(Envelope(id=kept[-1], next_try=2.0))])
        if len(kept) > 3:
            gone = kept.pop(dice.randrange(len(kept)))
            tell(f"? {gone}")
            spool.commit(drop=[gone])
            tell(f"- {gone}")


def main() -> None:
    path, writer, sync = sys.argv[1:]
    disk = Lying() if sync == "lie" else Disk()
    spool = JournalSpool(Settings(path=path, segment=1 << 20, min_free=0), writer, disk)
    running = [gevent.spawn(live, spool, writer, name) for name in range(GREENLETS)]
    try:
        gevent.joinall(running, raise_error=True)
    except (Refused, OSError):  # the power is gone
        gevent.sleep(60)


if __name__ == "__main__":
    main()
