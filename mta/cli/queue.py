"""Mail that waits: list it, look at it, hold it, let it go, delete it. Looking also works while no server runs."""

from __future__ import annotations

import argparse
import base64
import functools
import os
import sys
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from mta.cli import telling
from mta.daemon.control import Line
from mta.net.frames import CallFailed, Unavailable
from mta.settings import Settings

if TYPE_CHECKING:
    from mta.spool.resting import Resting

DONE = {"hold": "held", "release": "released", "retry": "tried again", "delete": "deleted"}
MEANINGS = {
    "list": "all of it, with the next try and the last answer; the default",
    "show": "what is known of a mail, and its header",
    "body": "the mail itself",
    "hold": "deliver it no more until it is released",
    "release": "let held mail go; no rule is asked about it any more",
    "retry": "try it now",
    "delete": "forget it, telling nobody",
}


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(verb="list", ids=[], held=None, rules=False)
    telling.json_option(parser)
    verbs = parser.add_subparsers(metavar="VERB")
    for name, meaning in MEANINGS.items():
        verb = verbs.add_parser(name, help=meaning)
        verb.set_defaults(verb=name)
        verb.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help="JSON, one object a line")
        if name == "list":
            held = "only held mail, or only that of quarantine NAME"
            verb.add_argument("--held", nargs="?", const="", metavar="NAME", help=held)
        else:
            verb.add_argument("ids", nargs=1 if name == "body" else "+", metavar="ID", help="as list shows it")
        if name == "release":
            verb.add_argument("--rules", action="store_true", help="ask the rules about it as about any mail")


def run(given: argparse.Namespace) -> int:
    made = telling.configuration(given, quiet=given.json)
    line = _line(made.settings.server.run)
    if line is None:
        if given.verb in DONE:
            raise telling.Failed(f"no server runs here, and only it may {given.verb} mail", telling.NOT_REACHABLE)
        return _read(given, _Resting(made.settings.spool.path))
    with line:
        try:
            running = _Running(line)
            return _act(given, running) if given.verb in DONE else _read(given, running)
        except Unavailable as error:
            raise telling.Failed(str(error), telling.NOT_REACHABLE) from None
        except CallFailed as error:
            raise telling.Failed(error.text, telling.FINDING) from None


def _line(run: str) -> Line | None:
    try:
        return Line(run)
    except Unavailable:
        return None


class _Running:
    """The mails of a running server, each known to one of its workers."""

    def __init__(self, line: Line) -> None:
        self._line = line
        status = line.ask("status")
        workers = [c for c in status["children"] if c["name"] != "registry" and c["state"] != "starting"]
        self._workers = [worker["pid"] for worker in workers]
        adopting = any(worker["work"].get("spool", {}).get("adopting") for worker in workers)
        self._unread = adopting or status["orphans"] > 0

    def list(self) -> Iterator[dict[str, Any]]:
        for pid in self._workers:
            try:
                page = self._line.ask("worker", pid, "queue", [])
                yield from page["mails"]
                while page["cursor"]:
                    page = self._line.ask("worker", pid, "queue", [page["cursor"]])
                    yield from page["mails"]
            except CallFailed as error:
                if error.kind != "Unavailable":
                    raise
                self._unread = True  # it ended meanwhile

    def mail(self, word: str, id: str, *more: Any) -> Any:
        """What the worker that has it answers; None: nobody has."""
        for pid in self._workers:
            try:
                answer = self._line.ask("worker", pid, "mail", [word, id, *more])
            except CallFailed as error:
                if error.kind != "Unavailable":
                    raise
                self._unread = True  # it ended meanwhile, or does not answer: perhaps another has its mail
                continue
            if answer is not None:
                return answer
        return None

    @property
    def doubt(self) -> str:
        """Why not every mail can be seen now; mostly empty."""
        if not self._unread:
            return ""
        return "mail of workers that ended or do not answer is not all taken over yet; ask again"

    def show(self, id: str) -> Any:
        return self.mail("show", id)

    def body(self, id: str) -> Iterator[bytes] | None:
        page = self.mail("body", id, 0)
        return None if page is None else self._body(id, page)

    def _body(self, id: str, page: dict[str, Any]) -> Iterator[bytes]:
        yield base64.b64decode(page["text"])
        while page["next"]:
            page = self.mail("body", id, page["next"])
            if page is None:
                raise telling.Failed(f"{id} was delivered or deleted meanwhile", telling.FINDING)
            yield base64.b64decode(page["text"])


class _Resting:
    """The mails of a spool nobody works on now, read from its files."""

    def __init__(self, path: str) -> None:
        self._path = path

    @functools.cached_property
    def _spool(self) -> Resting:
        from mta.spool.resting import Resting

        return Resting(self._path)

    @property
    def doubt(self) -> str:
        return self._spool.doubt if "_spool" in vars(self) else ""

    def list(self) -> Iterator[dict[str, Any]]:
        if os.path.isdir(self._path):  # else no server has ever run here, and we need not load what reads it
            from mta.daemon.waiting import plain

            yield from map(plain, self._spool.envelopes())

    def _mail(self, id: str) -> Any:
        try:
            return self._spool.mail(id)
        except OSError as error:
            raise telling.Failed(f"{id} cannot be read: {error}", telling.FINDING) from None

    def show(self, id: str) -> Any:
        from mta.daemon.desk import shown

        found = self._mail(id)
        return found and shown(*found)

    def body(self, id: str) -> Iterator[bytes] | None:
        found = self._mail(id)
        return found and iter(found[1].pieces())


def known(settings: Settings, ids: Sequence[str]) -> tuple[list[dict[str, Any]], str]:
    """Those of these mails that wait, as `show` tells them, and why there may be more (mostly ""). Raises Failed."""
    line = _line(settings.server.run)
    if line is None:
        return _found(_Resting(settings.spool.path), ids)
    with line:
        try:
            return _found(_Running(line), ids)
        except Unavailable as error:
            raise telling.Failed(str(error), telling.NOT_REACHABLE) from None
        except CallFailed as error:
            raise telling.Failed(error.text, telling.FINDING) from None


def _found(mails: _Running | _Resting, ids: Sequence[str]) -> tuple[list[dict[str, Any]], str]:
    found = [mail for mail in map(mails.show, ids) if mail is not None]
    return found, mails.doubt if len(found) < len(ids) else ""


# -- looking -----------------------------------------------------------------------------------------------------------


def _read(given: argparse.Namespace, mails: _Running | _Resting) -> int:
    if given.verb == "list":
        _list(given, mails.list())
        if not mails.doubt:
            return telling.FINE
        print(f"mta queue: some mail may be missing here: {mails.doubt}", file=sys.stderr)
        return telling.FINE if isinstance(mails, _Running) else telling.FINDING
    if given.verb == "body":
        pieces = mails.body(given.ids[0])
        if pieces is None:
            return _missing(given.ids[0], mails)
        sys.stdout.flush()
        for piece in pieces:
            sys.stdout.buffer.write(piece)
        sys.stdout.buffer.flush()
        return telling.FINE
    code = telling.FINE
    for n, id in enumerate(given.ids):
        found = mails.show(id)
        if found is None:
            code = _missing(id, mails)
        elif given.json:
            telling.print_json(found)
        else:
            print("\n" * bool(n) + _whole(found, time.time()))
    return code


def _missing(id: str, mails: _Running | _Resting) -> int:
    but = f", but {mails.doubt}" if mails.doubt else ""
    print(f"mta queue: there is no mail {id}{but}", file=sys.stderr)
    return telling.NOT_REACHABLE if but else telling.NOT_FOUND


def _list(given: argparse.Namespace, mails: Iterator[dict[str, Any]]) -> None:
    if given.held is not None:
        wanted = {given.held, f"quarantine {given.held}"}
        mails = (mail for mail in mails if mail.get("held") and (not given.held or mail["held"] in wanted))
    if given.json:
        for mail in mails:
            telling.print_json(mail)
        return
    head = ["id", "age", "next try", "tries", "sender", "recipients", "why"]
    telling.table(head, (_row(mail, time.time()) for mail in mails))


def _row(mail: dict[str, Any], now: float) -> list[Any]:
    recipients = [recipient["address"] for recipient in mail["recipients"]]
    return [
        mail["id"],
        telling.ago(now - mail["arrived"]),
        _next(mail, now),
        mail.get("attempts", 0),
        mail["sender"] or "<>",
        ", ".join(recipients[:3]) + (f" and {len(recipients) - 3} more" if len(recipients) > 3 else ""),
        _why(mail, now),
    ]


def _next(mail: dict[str, Any], now: float) -> str:
    if mail.get("held"):
        return "held"
    wait = mail["next_try"] - now
    return "now" if wait <= 0 else f"in {telling.ago(wait)}"


def _why(mail: dict[str, Any], now: float) -> str:
    if mail.get("held"):
        return str(mail["held"])
    if mail.get("until", 0) > now:
        return _held(mail)
    return next((one["reply"] for one in mail["recipients"] if one.get("reply")), "")


def _held(one: dict[str, Any]) -> str:
    """A mail or a recipient that a rule holds."""
    return f"{one.get('until_by') or 'a rule'} holds it until {_date(one['until'])}"


def _date(when: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(when))


def _whole(mail: dict[str, Any], now: float) -> str:
    """One mail, for people."""
    client = mail.get("client") or {}
    lines = [
        ("id", mail["id"] + (f" (made from {mail['origin']})" if mail.get("origin") else "")),
        ("state", _next(mail, now) + (f": {why}" if (why := _why(mail, now)) else "")),
        ("sender", mail["sender"] or "<>"),
        *(("recipient", _recipient(one)) for one in mail["recipients"]),
        ("arrived", f"{_date(mail['arrived'])}, {telling.ago(now - mail['arrived'])} ago"),
        ("tries", str(mail.get("attempts", 0))),
        ("size", f"{telling.bytes_of(mail['size'])}, {mail['direction']}"),
    ]
    if client:
        facts = [client["ip"], client["name"], f"helo {client['helo']}", client["tls"]]
        facts.append(f"user {client['user']}" if client["user"] else "trusted" if client["trusted"] else "")
        lines.append(("client", ", ".join(filter(None, facts))))
    lines += [("vars", f"{name} = {value!r}") for name, value in mail["vars"].items()]
    table = "\n".join(f"{name:<11}{telling.harmless(text)}" for name, text in lines)
    header = telling.harmless(mail["header"].replace("\r\n", "\n"), kept="\n\t")
    return f"{table}\n\n{header}"


def _recipient(one: dict[str, Any]) -> str:
    text = str(one["address"])
    if one.get("route"):
        text += f" by {one['route']}"
    if one.get("notify") == "never":
        text += " (the sender is not told of it)"
    if one.get("until", 0) > time.time():
        text += f": {_held(one)}"
    return text + (f": {one['reply']}" if one.get("reply") else "")


# -- acting ------------------------------------------------------------------------------------------------------------


def _act(given: argparse.Namespace, mails: _Running) -> int:
    code = telling.FINE
    more = [given.rules] if given.verb == "release" else []
    for id in given.ids:
        try:
            found = mails.mail(given.verb, id, *more)
        except CallFailed as error:
            print(f"mta queue: {error.text}", file=sys.stderr)
            code = max(code, telling.FINDING)
            continue
        if found is None:
            code = _missing(id, mails)
        elif given.json:
            telling.print_json({"done": given.verb, **found})
        else:
            print(f"{id} {DONE[given.verb]}")
    return code
