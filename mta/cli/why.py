"""Why did that happen? What the log and the spool know of one mail, session or refusal, in plain words.

Every refusal ends with an id, and so does the 250 of a mail that was taken. At log.level = "debug" the log also tells
which rules spoke at each stage, what they asked and what they changed.
"""

from __future__ import annotations

import argparse
import glob
import gzip
import json
import lzma
import mmap
import os
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

from mta.cli import queue, telling
from mta.message.ids import SHAPE

MANY = 20  # mails of a session that are looked for in the spool

Event = dict[str, Any]


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("id", metavar="ID", help='of a mail or a session; "(k3v9x0a2bq-1f.2)" from a reply will do')
    parser.add_argument("--file", action="append", metavar="LOG", help='this log instead; "-" reads the standard input')
    telling.json_option(parser)


def run(given: argparse.Namespace) -> int:
    shape = SHAPE.search(given.id)
    if shape is None:
        raise telling.Failed(f'{given.id} is no id: they look like "k3v9x0a2bq-1f.2"', telling.USAGE)
    id = shape[0]
    settings = telling.configuration(given, quiet=given.json).settings
    names = given.file or [name for name in [*settings.log.to, *settings.log.rules] if not name.endswith(":")]
    events = told(names, id, bool(given.file))
    mails = [id] if "." in id else list(dict.fromkeys(event["mail"] for event in events if "mail" in event))[:MANY]
    waiting, doubt = queue.known(settings, mails)
    if doubt:
        print(f"mta why: there may be more to tell: {doubt}", file=sys.stderr)
    if not events and not waiting:
        where = ", ".join(names) or "a log (log.to names no file)"
        raise telling.Failed(f"{id} is not known: it stands neither in {where} nor in the spool", telling.NOT_FOUND)
    record = _record(id, events, waiting)
    if given.json:
        telling.print_json(record)
    else:
        for line in _lines(_plain(record)):
            print(line)
    return telling.FINE


# -- finding -----------------------------------------------------------------------------------------------------------


def told(names: list[str], id: str, given: bool = False) -> list[Event]:
    """Every event about an id in these logs and, unless they were `given`, their rotated files, oldest first.

    Raises Failed.
    """
    session = id.partition(".")[0]
    found: list[Event] = []
    for name in names:
        for path in [name] if given or name == "-" else _rotated(name):
            try:
                lines = list(_mentioning(path, session.encode()))
            except OSError as error:
                raise telling.Failed(f"{path}: {error.strerror or error}", telling.NOT_FOUND) from None
            except (EOFError, lzma.LZMAError) as error:
                print(f"mta why: {path}: {error}; what could be read is shown", file=sys.stderr)
                continue
            for line in lines:
                try:
                    event = json.loads(line)
                except ValueError:
                    continue
                if isinstance(event, dict) and _about(event, id, session) and event not in found:
                    found.append(event)
    return sorted(found, key=lambda event: str(event.get("time", "")))


def _rotated(name: str) -> Iterator[str]:
    """A log's file and those it was renamed to: mta.log.1, mta.log.2.gz, mta.log-20260101."""
    yield from sorted(path for path in glob.glob(glob.escape(name) + "*") if os.path.isfile(path))


def _mentioning(path: str, needle: bytes) -> Iterator[bytes]:
    """Lines with `needle` in them. A plain file is searched as a whole, which is ten times as fast as by lines."""
    openers: dict[str, Callable[[str], Any]] = {".gz": gzip.open, ".xz": lzma.open}
    opener = openers.get(os.path.splitext(path)[1])
    if path == "-" or opener is not None:
        with sys.stdin.buffer if opener is None else opener(path) as file:
            yield from (line for line in file if needle in line)
        return
    with open(path, "rb") as file:
        if not os.fstat(file.fileno()).st_size:
            return
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as text:
            at = text.find(needle)
            while at >= 0:
                end = text.find(b"\n", at)
                end = len(text) if end < 0 else end
                yield text[text.rfind(b"\n", 0, at) + 1 : end]
                at = text.find(needle, end)


def _about(event: Event, id: str, session: str) -> bool:
    mail = event.get("mail")
    if id in (mail, event.get("bounce"), event.get("origin")):
        return True
    if id == session:
        return event.get("session") == id or str(mail).partition(".")[0] == id
    return event.get("session") == session and not mail


# -- telling -----------------------------------------------------------------------------------------------------------


def _record(id: str, events: list[Event], waiting: list[dict[str, Any]]) -> dict[str, Any]:
    record = {
        "id": id,
        "kind": "mail" if "." in id else "session",
        "summary": list(_summary(id, events, waiting)),
        "events": events,
        "spool": [{name: value for name, value in mail.items() if name != "header"} for mail in waiting],
    }
    others = [event[name] for event in events for name in ("mail", "bounce", "origin") if event.get(name)]
    record["see"] = [one for one in dict.fromkeys(others) if one != id]
    return {name: value for name, value in record.items() if value}


def _summary(id: str, events: list[Event], waiting: list[dict[str, Any]]) -> Iterator[str]:
    """What became of it, in a few sentences."""
    if "." not in id:
        kept = [event for event in events if event.get("event") == "accepted"]
        refused = [event for event in events if event.get("event") == "refused"]
        yield f"a session: {_count(kept, 'mail')} accepted, {_count(refused, 'refusal')}"
    mine = [event for event in events if event.get("mail") == id]
    for event in mine:
        if event.get("event") == "accepted":
            yield f"accepted at {_date(event.get('time'))}"
    last: dict[str, tuple[str, str]] = {}
    for event in mine:
        kind, reply = event.get("event", ""), event.get("reply", "")
        if kind == "delivered":
            last[event.get("recipient", "")] = kind, f"delivered at the {_nth(event.get('attempts', 1))} attempt"
        elif kind == "deferred":
            last[event.get("recipient", "")] = kind, f"{_tried(event.get('attempts', 1))}, last answer {_quoted(reply)}"
        elif kind == "failed":
            last[event.get("recipient", "")] = (
                kind,
                f"failed at the {_nth(event.get('attempts', 1))} attempt: {_quoted(reply)}",
            )
        elif kind in ("discarded", "deleted", "dropped", "held"):
            for one in event.get("recipients", ()):
                last[one] = kind, f"{kind}{_by(event)}"
    here = {one["address"] for mail in waiting if mail["id"] == id for one in mail["recipients"]}
    for recipient, (kind, sentence) in last.items():
        if kind in ("deferred", "held") and recipient in here:
            continue  # the spool knows better
        yield f"{recipient}: {sentence}"
    for mail in waiting:
        for one in mail["recipients"]:
            answer = f", last answer {_quoted(one['reply'])}" if one.get("reply") else ""
            yield f"{one['address']}: in the spool, {_tried(one.get('attempts', 0))}{answer}; {_next(mail)}"
    if "." in id and not last and not waiting:
        refused = [event for event in mine if event.get("event") == "refused"]
        if refused and not any(event.get("event") == "accepted" for event in mine):
            yield "it was refused, so nothing was kept"
        elif any(event.get("event") == "accepted" for event in mine):
            yield "it is not in the spool, and this log does not tell its end"


def _next(mail: dict[str, Any]) -> str:
    if mail.get("held"):
        return f"held: {mail['held']}"
    wait = mail["next_try"] - time.time()
    return "next try now" if wait <= 0 else f"next try at {_date(mail['next_try'])}"


def _lines(record: dict[str, Any]) -> Iterator[str]:
    yield telling.paint(f"{record['kind']} {record['id']}", "bold")
    for sentence in record.get("summary", ()):
        yield f"  {sentence}"
    if record.get("events"):
        yield ""
    day = ""
    for event in record.get("events", ()):
        date, _, clock = _date(event.get("time")).partition(" ")
        if date != day:
            day = date
            yield telling.paint(date, "dim")
        first, *more = _sentences(event, record["id"])
        yield f"{telling.paint(clock.removesuffix(' UTC'), 'dim')}  {first}"
        yield from (f"{' ' * 14}{line}" for line in more)
    if record.get("events") and not any(event.get("event") == "judged" for event in record["events"]):
        yield telling.paint('which rules spoke is in the log only at log.level = "debug"', "dim")
    if record.get("see"):
        yield f"see also: {', '.join(f'mta why {id}' for id in record['see'])}"


def _sentences(event: Event, id: str) -> list[str]:
    """One event in plain words; the first line, then what belongs to it."""
    kind = event.get("event", "")
    tell = _TELL.get(kind)
    lines = tell(event) if tell is not None else [_rest(event)]
    mail = event.get("mail")
    if mail and mail != id:
        lines[0] = f"[{mail}] {lines[0]}"
    return lines


def _accepted(event: Event) -> list[str]:
    tls = f" over {event['tls']}" if event.get("tls") else ", in clear text"
    user = f" as {event['user']}" if event.get("user") else ""
    lines = [
        f"accepted from {_client(event)}{user}{tls}: {event.get('sender', '<>')} to "
        f"{', '.join(event.get('recipients', ()))}, {telling.bytes_of(event.get('size', 0))}"
    ]
    if event.get("rule"):
        lines.append(f"decided at {event.get('stage', '')}{_by(event)}")
    if event.get("held"):
        lines.append(f"nobody gets it until a person releases it: {event['held']}")
    if event.get("reply"):
        lines.append(f"the client heard {_quoted(event['reply'])}")
    return lines


def _refused(event: Event) -> list[str]:
    whom = event.get("recipient") or ", ".join(event.get("recipients", ()))
    about = " to ".join(filter(None, (event.get("sender"), whom)))
    by = _by(event) or " by the server itself"
    lines = [f"refused at {event.get('stage', '')}{by}: {_quoted(event.get('reply', ''))}"]
    if about:
        lines.append(f"it was from {about}" if event.get("sender") else f"it was to {about}")
    if event.get("client"):
        lines.append(f"the client was {_client(event)}")
    if event.get("reason"):
        lines.append(f"because {event['reason']}")
    return lines


def _judged(event: Event) -> list[str]:
    spoken = [f'"{rule}" ({where}) {said}, {us} us' for rule, where, said, us in event.get("rules", ())]
    file = f" (with {event['file']})" if event.get("file") else ""
    lines = [f"rules at {event.get('stage', '')}{file}:" + ("" if spoken else " none spoke"), *spoken]
    for word, given, answer in event.get("asked", ()):
        lines.append(f"asked {word}({', '.join(json.dumps(one, ensure_ascii=False) for one in given)}): {answer}")
    return [*lines, *(f"changed {one}" for one in event.get("changed", ()))]


def _delivered(event: Event) -> list[str]:
    return [
        f"delivered to {event.get('recipient')} by {_way(event)} at the {_nth(event.get('attempts', 1))} attempt, "
        f"{event.get('delay', 0)} s after it came: {_quoted(event.get('reply', ''))}"
    ]


def _deferred(event: Event) -> list[str]:
    first = f"not now: {event.get('recipient')}{_through(event)}, {_tried(event.get('attempts', 1))}"
    lines = [f"{first}: {_quoted(event.get('reply', ''))}"]
    if event.get("next_try"):
        lines.append(f"next try at {_date(event['next_try'])}")
    return [*lines, *([f"because {event['reason']}"] if event.get("reason") else [])]


def _failed(event: Event) -> list[str]:
    first = f"failed: {event.get('recipient')}{_through(event)}, {_tried(event.get('attempts', 1))}"
    return [f"{first}: {_quoted(event.get('reply', ''))}", *([event["reason"]] if event.get("reason") else [])]


def _ended(words: str) -> Callable[[Event], list[str]]:
    def tell(event: Event) -> list[str]:
        whom = f": {', '.join(event['recipients'])}" if event.get("recipients") else ""
        until = f" until {_date(event['next_try'])}" if event.get("next_try") else ""
        return [f"{words}{until}{_at(event)}{_by(event)}{whom}", *([event["reason"]] if event.get("reason") else [])]

    return tell


def _said(event: Event) -> list[str]:
    topic = f"{event['topic']}: " if event.get("topic") else ""
    return [f"a rule said{_by(event)}: {topic}{event.get('message', '')}"]


def _rule_failed(event: Event) -> list[str]:
    return [f"a rule failed at {event.get('stage', '')}{_by(event)}: {event.get('error', '')}"]


def _service(event: Event) -> list[str]:
    ended = f"signal {event['signal']}" if event.get("signal") else f"code {event.get('code')}"
    why = f", fault: {event['reason']}" if event.get("reason") else ""
    asked = f"asked service {event.get('service')} at {event.get('stage', '')}{_by(event)}"
    return [f"{asked}: {ended}, {event.get('ms')} ms{why}"]


_TELL: dict[str, Callable[[Event], list[str]]] = {
    "accepted": _accepted,
    "refused": _refused,
    "judged": _judged,
    "delivered": _delivered,
    "deferred": _deferred,
    "failed": _failed,
    "discarded": _ended("thrown away"),
    "dropped": _ended("ended with nobody to tell"),
    "held": _ended("held for a person"),
    "released": _ended("released by a person"),
    "retried": _ended("tried again at once, as a person wished"),
    "deleted": _ended("deleted by a person"),
    "postponed": _ended("held by a rule"),
    "rule_failed": _rule_failed,
    "rule_log": _said,
    "rule_debug": _said,
    "rule_warning": _said,
    "rule_error": _said,
    "service_called": _service,
    "service_failed": _service,
    "connected": lambda event: [f"connected: {_client(event)} on a {event.get('listener', '')} listener"],
    "logged_in": lambda event: [f"{event.get('user')} logged in with {event.get('mechanism')}{_by(event)}"],
    "closed": lambda event: [f"the session ended after {_count(event.get('mails', 0), 'mail')}"],
    "lost": lambda event: [f"the client was lost at {event.get('stage', '')}: {event.get('reason', '')}"],
    "bounced": lambda event: [f"{event.get('sender')} was told, by {event.get('bounce')}"],
    "captured": lambda event: [f"written down for mta replay: {event.get('file')}"],
    "bug": lambda event: [f"our own mistake at {event.get('stage', '')}: {event.get('error', '')}"],
}


def _rest(event: Event) -> str:
    """An event there are no words for."""
    known = {"time", "level", "event", "session", "mail", "traceback"}
    told = ", ".join(f"{name} {value}" for name, value in event.items() if name not in known)
    return f"{event.get('event', 'a line')}: {told}"


def _client(event: Event) -> str:
    return f"{event.get('client', 'nobody')}" + (f" ({event['helo']})" if event.get("helo") else "")


def _at(event: Event) -> str:
    return f" at {event['stage']}" if event.get("stage") else ""


def _by(event: Event) -> str:
    return f' by rule "{event["rule"]}" ({event.get("where", "")})' if event.get("rule") else ""


def _way(event: Event) -> str:
    return " ".join(filter(None, (event.get("transport"), event.get("host")))) or "nobody"


def _through(event: Event) -> str:
    """Who said so: the transport, or a rule that did not let it come so far."""
    return f" by {_way(event)}" if event.get("transport") else _at(event) + _by(event)


def _tried(number: int) -> str:
    return {0: "not tried yet", 1: "tried once", 2: "tried twice"}.get(number, f"tried {number} times")


def _nth(number: int) -> str:
    return {1: "first", 2: "second", 3: "third"}.get(number, f"{number}th")


def _count(what: Any, name: str) -> str:
    number = what if isinstance(what, int) else len(what)
    return f"{number or 'no'} {name}{'' if number == 1 else 's'}"


def _quoted(text: str) -> str:
    return f'"{text}"'


def _date(when: Any) -> str:
    """A time of the log, or seconds since 1970."""
    if isinstance(when, int | float):
        when = datetime.fromtimestamp(when, UTC).isoformat()
    return str(when or "").replace("T", " ")[:19] + " UTC"


def _plain(value: Any) -> Any:
    """The same without what steers a terminal: much of it was said by strangers."""
    if isinstance(value, str):
        return value if value.isprintable() else "".join(c if c.isprintable() else "?" for c in value)
    if isinstance(value, dict):
        return {_plain(name): _plain(one) for name, one in value.items()}
    return [_plain(one) for one in value] if isinstance(value, list) else value
