"""What the words about a mail cost: scans of small headers, edits of large mails, and how long others wait meanwhile.

python tests/bench/language.py [MEGABYTES]
"""

from gevent import monkey

monkey.patch_all()

import base64  # noqa: E402
import mmap  # noqa: E402
import os  # noqa: E402
import random  # noqa: E402
import resource  # noqa: E402
import sys  # noqa: E402
import tempfile  # noqa: E402
import time  # noqa: E402
import tracemalloc  # noqa: E402
from pathlib import Path  # noqa: E402

import gevent  # noqa: E402

from mta import settings  # noqa: E402
from mta.message.headers import Headers, end_of  # noqa: E402
from mta.message.message import Message, Raw  # noqa: E402
from mta.net import offload  # noqa: E402
from mta.rules.engine.engine import Rules  # noqa: E402
from mta.rules.outside import protection  # noqa: E402, F401  a worker has it before the first mail
from mta.rules.outside.keys import Keys  # noqa: E402
from mta.rules.trying import example  # noqa: E402

LINES = [f"X-Field-{n}: {'value ' * 20}".encode() for n in range(28)]
SMALL = b"\r\n".join([*LINES[:14], b"Subject: hello", *LINES[14:], b"", b"hello"])

TASKS = {
    "look at every part": "for part in mail:parts() do local _ = part.type, part.filename, part.size end",
    "decode base64 (the last MB)": ('local p = mail:find("*.bin")\nassert(#p:bytes(p.size * 3 // 4 - 1100000) > 0)'),
    "decode text (the last MB)": 'local p = mail:find("text/plain")\nassert(#p:text(p.size - 1100000) > 0)',
    "replace": 'mail:find("*.bin"):replace("text/plain", "gone")',
    "rename, footer, attach": 'mail:find("*.bin"):rename("x")\nmail:footer("us")\nmail:attach("text/plain", "x")',
    "set one header": 'mail.headers:set("Subject", "other")',
    "enclose": 'mail:enclose("look")',
    "sign (S/MIME)": 'mail:sign("smime", "you@example.test")',
    "encrypt (S/MIME)": 'mail:encrypt("smime", "you@example.test")',
    "sign (OpenPGP)": 'mail:sign("pgp", "you@example.test")',
    "encrypt (OpenPGP)": 'mail:encrypt("pgp", "you@example.test")',
}
BACK = {  # what was done to the mail before
    "verify (S/MIME)": ("sign (S/MIME)", 'assert(mail:verify("smime", "root").ok)'),
    "decrypt (S/MIME)": ("encrypt (S/MIME)", 'assert(mail:decrypt("smime", "you@example.test"))'),
    "verify (OpenPGP)": ("sign (OpenPGP)", 'assert(mail:verify("pgp", "you@example.test").ok)'),
    "decrypt (OpenPGP)": ("encrypt (OpenPGP)", 'assert(mail:decrypt("pgp", "you@example.test"))'),
}


def large(megabytes: int) -> bytes:
    """Half of it a binary file, half of it text."""
    rng = random.Random(1)
    half = megabytes * 500_000
    text = b"\r\n".join([b"some words of a long, long text, line by line"] * (half // 47))
    coded = base64.encodebytes(rng.randbytes(half * 3 // 4)).replace(b"\n", b"\r\n")
    return (
        b"From: ann@example.com\r\nSubject: large\r\nMIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=b\r\n"
        b"\r\n--b\r\nContent-Type: text/plain\r\n\r\n" + text + b"\r\n--b\r\nContent-Type: application/octet-stream; "
        b"name=a.bin\r\nContent-Transfer-Encoding: base64\r\n\r\n" + coded + b"\r\n--b--\r\n"
    )


def keys() -> Keys:
    """Those of the examples, and one for OpenPGP where that is installed."""
    try:
        import pysequoia
    except ImportError:
        return Keys(example.KEYS)
    return Keys(example.KEYS | {"you@example.test.asc": str(pysequoia.Tsk.generate("<you@example.test>")).encode()})


KEYS = keys()


def rules(body: str) -> Rules:
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "main.lua").write_text(f'on.preq("bench", function(mail)\n{body}\nend)\n')
        world = example.world()
        world.keys = KEYS
        return Rules.load(settings.Rules(path=folder), world)


class Ticking:
    """A greenlet that wants its turn every millisecond; `worst` is the longest it had to wait, in ms, and `busy` how
    much of that this thread was at work: the rest is other threads' hold on the interpreter, and other programs."""

    def __enter__(self) -> "Ticking":
        self.worst, self.busy, self.going = 0.0, 0.0, True
        self.greenlet = gevent.spawn(self.tick)
        gevent.sleep(0.01)
        self.worst = 0.0
        return self

    def tick(self) -> None:
        while self.going:
            began, work = time.perf_counter(), time.thread_time()
            gevent.sleep(0.001)
            waited = (time.perf_counter() - began - 0.001) * 1000
            if waited > self.worst:
                self.worst, self.busy = waited, (time.thread_time() - work) * 1000

    def __exit__(self, *error: object) -> None:
        self.going = False
        self.greenlet.join()


def written(message: Message) -> None:
    """As a spool writes it: to a file, off the loop."""

    def write() -> None:
        with tempfile.TemporaryFile() as file:
            for piece in message.pieces():
                view = memoryview(piece)
                for at in range(0, len(view), 1 << 20):
                    os.write(file.fileno(), view[at : at + (1 << 20)])

    offload.run(write)


def arrived(raw: bytes) -> mmap.mmap:
    """As a session has it: in a file."""
    with tempfile.TemporaryFile() as file:
        file.write(raw)
        file.flush()
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def judged(loaded: Rules, raw: Raw) -> Message:
    tx = example.transaction("preq")
    message = tx.message = Message(raw)
    verdict = loaded.run("preq", tx)
    assert not verdict.failed, loaded.world.said("rule_failed")[-1:]  # type: ignore[attr-defined]
    tx.close()
    return message


def scan() -> float:
    """Microseconds for a rule that asks a 4 KB header for one field, without the frame around it."""
    asking, silent = rules('local _ = mail.headers:get("Subject")'), rules("local _ = mail.id")
    best = {asking: 1e9, silent: 1e9}
    for _ in range(20):
        for loaded in best:
            made = []
            for _ in range(300):
                tx = example.transaction("preq")
                tx.message = Message(SMALL)
                made.append(tx)
            began = time.process_time()
            for tx in made:
                loaded.run("preq", tx)
            best[loaded] = min(best[loaded], (time.process_time() - began) / 300 * 1e6)
            for tx in made:
                tx.close()
    return best[asking] - best[silent]


def index() -> float:
    """Microseconds for the index of the same header alone."""
    best = 1e9
    for _ in range(50):
        began = time.process_time()
        for _ in range(100):
            Headers(SMALL, end_of(SMALL)[0]).get("Subject")
        best = min(best, (time.process_time() - began) / 100 * 1e6)
    return best


def copies(raw: bytes, body: str) -> float:
    """How much memory a change and the writing of its result take at most, in bodies."""
    loaded = rules(body)
    tracemalloc.start()
    written(judged(loaded, raw))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak / len(raw)


def main() -> None:
    sys.setswitchinterval(offload.SWITCH)  # as in a worker
    megabytes = int(sys.argv[1]) if len(sys.argv) > 1 else 25
    raw = large(megabytes)
    print(f"header scan of a 4 KB mail     {scan():6.1f} us, of which {index():.1f} the index and the field")
    print(f"one header of a {megabytes} MB mail     {copies(raw, TASKS['set one header']):6.3f} copies of the body")
    with Ticking() as idle:
        gevent.sleep(1)
    print(f"another greenlet waits         {idle.worst:6.1f} ms with nothing else to do")
    tasks = {name: ("", body) for name, body in TASKS.items()} | BACK
    for name, (before, body) in tasks.items():
        if "OpenPGP" in name and not KEYS.has("pgp", "you@example.test"):
            continue
        loaded = rules(body)
        mail = arrived(bytes(judged(rules(TASKS[before]), raw)) if before else raw)
        took, worst, busy = [], [], []
        for _ in range(3):
            with Ticking() as ticking:
                began = time.perf_counter()
                written(judged(loaded, mail))
                took.append((time.perf_counter() - began) * 1000)
            worst.append(ticking.worst)
            busy.append(ticking.busy)
        print(
            f"{name:30} {sorted(worst)[1]:6.1f} ms (worst {max(worst):5.1f}, of that at work {max(busy):5.1f}), "
            f"done in {min(took):6.0f} ms"
        )
    print(f"largest size of the process    {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10:6} MB")


if __name__ == "__main__":
    main()
