"""Tests of rules written in Lua: `test("name", function(t) ... end)` in files *_test.lua.

    t:session { ip = "192.0.2.1", helo = "mx.example", from = "a@b.example", to = { "you@example.test" } }
    t:message "text of a mail"   t:mail { subject = "...", text = "...", attach = { ["a.exe"] = "MZ" } }
    t:load "a.eml"
    t:dns("b.example", "TXT", "v=spf1 -all")   t:service("clamav", { code = 1 })   t:list("blocked.txt", "b.example")
    t:store("key", 1)   t:clock("2026-01-01T10:00:00")   t:user("ann")
    t:run()   t:run("rcpt")   t:step()   t:back()
    t:expect("rcpt", "550 5.7.1*")   t:decided("rcpt", "rule", "deny")   t:reached("rule")   t:not_reached("rule")
    t:header("X-Spam", "yes*")   t:no_header("X-Spam")   t:envelope { sender = "...", recipients = { ... } }
    t:var("score", 3)   t:part("text/html", "*words*")   t:no_part("*.exe")   t:body("*words*")
    t:routed("you@example.test", "smtp relay.example*")   t:logged("rule_log", { message = "*" })   t:not_logged("...")
    t:asked("dns.lookup", "b.example")   t:not_asked("dns.lookup")   t:result("delivered")   t:equal(got, expected)

In what is expected, * stands for anything. Whatever looks at a result runs the session first, if nobody has.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from mta import settings
from mta.message import address, build
from mta.message.address import NULL, Address
from mta.message.message import Message
from mta.message.reply import Refused
from mta.rules import difference
from mta.rules.coverage import Coverage
from mta.rules.dialogue import like
from mta.rules.engine import Rules
from mta.rules.sandbox import BROKEN, DONE, WAITS, said
from mta.rules.services.request import Answer
from mta.rules.trial import Sketch, Spoke, Stage, Trial
from mta.rules.trial_world import TrialWorld
from mta.rules.words import times
from mta.rules.world import INSIDE


class Outcome(NamedTuple):
    """How a test ended: `error` is "" where it passed, else "archive_test.lua:12: expected ..., got ..."."""

    name: str
    where: str
    error: str
    seconds: float


class ScriptError(Exception):
    """A file that cannot be read as tests: "archive_test.lua:3: what"."""


class Wrong(Exception):
    """An expectation that was not met, or something asked in a way that makes no sense."""


class Script:
    """One file of tests. `world()` makes a world, `load(world)` the rules in it. Raises ScriptError, OSError."""

    def __init__(
        self,
        path: Path,
        runner: Rules,
        world: Callable[[], TrialWorld],
        load: Callable[[TrialWorld], Callable[[], Rules]],
        sketch: Callable[[], Sketch],
        coverage: Coverage | None = None,
    ) -> None:
        self.path, self._world, self._load, self._sketch, self._coverage = path, world, load, sketch, coverage
        self._runtime = runner.runtime
        self._lua = self._runtime.tool("testing")
        self._read()

    def _read(self) -> None:
        text = self.path.read_bytes().removeprefix(b"\xef\xbb\xbf").decode("latin-1")
        answer = self._lua["load"](text, self.path.name)
        if answer != DONE:
            raise ScriptError(_placed(answer))
        found = json.loads(self._lua["names"]())["tests"]
        self.tests: list[tuple[str, str]] = [(said(name), said(where)) for name, where in found or []]

    def run(self, wanted: Callable[[str], bool] = lambda name: True) -> Iterator[Outcome]:
        """Run its tests, one after the other."""
        for number, (name, where) in enumerate(self.tests, 1):
            if wanted(name):
                began = time.perf_counter()
                error = self._one(number)
                yield Outcome(name, where, error, time.perf_counter() - began)

    def _one(self, number: int) -> str:
        played = Session(self.path.parent, self._world(), self._load, self._sketch())
        try:
            answer = self._in_lua(self._lua["start"], number)
            while answer != DONE and answer[0] == WAITS:
                _, word, text = answer[:3]
                tag, value = played.answer(word.removeprefix("t:"), text)
                answer = self._in_lua(self._runtime.step, 0, tag, value)
        finally:
            if self._coverage is not None:
                played.covered(self._coverage)
        return _placed(answer) if answer != DONE and answer[0] == BROKEN else ""

    def _in_lua(self, call: Callable[..., Any], *arguments: Any) -> Any:
        INSIDE.depth += 1
        try:
            return call(*arguments)
        finally:
            INSIDE.depth -= 1


def _placed(answer: Any) -> str:
    _, message, place, _, _ = answer
    text = said(message)
    return text if not place or text.startswith(said(place)) or ".lua:" in text[:80] else f"{said(place)}: {text}"


_OF = {"list": "entries"}  # words of `t` that mean something else in Python


class Session:
    """What `t` stands for: a session to be described, run and looked at."""

    def __init__(
        self, folder: Path, world: TrialWorld, load: Callable[[TrialWorld], Callable[[], Rules]], sketch: Sketch
    ) -> None:
        self._folder, self._world, self._load, self._sketch = folder, world, load, sketch
        self._trial: Trial | None = None
        self._stages: list[Stage] = []  # all that ran, also those gone back from

    def answer(self, name: str, text: str) -> tuple[str, str | None]:
        """Do what `t:name(...)` asks: ("ok", JSON or None) or ("fail", why)."""
        method = (
            getattr(Session, name, None) if not name.startswith("_") and name not in ("answer", "covered") else None
        )
        if method is None:
            return "fail", f"there is no t:{name}"
        given = json.loads(text)
        arguments = [_text(given.get(str(n))) for n in range(1, given["n"] + 1)]
        try:
            found = method(self, *arguments)
        except Wrong as wrong:
            return "fail", _bytes(str(wrong))
        except (ValueError, OSError, Refused) as error:
            return "fail", _bytes(f"t:{name}: {error}")
        except TypeError as error:
            if "argument" not in str(error):
                raise
            return "fail", _bytes(f"t:{name} takes other arguments: {str(error).partition(') ')[2]}")
        return "ok", None if found is None else json.dumps([found])

    def covered(self, coverage: Coverage) -> None:
        if self._trial is None:
            return
        coverage.add(self._trial.rules)
        for stage in self._stages:
            for rule in stage.rules:
                if rule.said not in ("skipped", "not reached"):
                    coverage.spoke.add((stage.name, rule.rule))

    # -- what is made up ---------------------------------------------------------------------------------------------

    def session(self, facts: dict[str, Any]) -> None:
        for name, value in facts.items():
            if name in ("from", "sender"):
                self._change(sender=_address(value))
            elif name in ("to", "rcpt", "recipients"):
                self._change(recipients=[_address(one) for one in ([value] if isinstance(value, str) else value)])
            elif name in ("ip", "name", "helo", "user", "tls", "listener", "server"):
                self._change(**{name: str(value)})
            elif name == "port":
                self._change(port=int(value))
            elif name == "trusted":
                self._change(trusted=bool(value))
            elif name == "vars":
                self._change(vars=value)
            else:
                raise Wrong(f"a session has no {name}; it has ip port name helo from to tls user listener trusted vars")

    def _change(self, **facts: Any) -> None:
        self._sketch = dataclasses.replace(self._sketch, **facts)
        if self._trial is not None:
            self._trial.change(**facts)

    def message(self, text: str) -> None:
        raw = text.encode("utf-8", "surrogateescape")
        if raw.count(b"\n") != raw.count(b"\r\n"):
            raw = raw.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")
        self._change(message=Message(raw))

    def load(self, file: str) -> None:
        raw = (self._folder / file).read_bytes()
        self.message(raw.decode("utf-8", "surrogateescape"))

    def mail(self, about: dict[str, Any]) -> None:
        fields = {"From": f"<{self._sketch.sender or 'a@client.example'}>", "To": "<you@example.test>"}
        if self._sketch.recipients:
            fields["To"] = ", ".join(f"<{one}>" for one in self._sketch.recipients)
        fields |= {"Subject": about.get("subject", "Hello"), "Date": "Thu, 1 Jan 2026 10:00:00 +0000"}
        fields |= {"Message-ID": "<1@client.example>"} | (about.get("headers") or {})
        unknown = about.keys() - {"subject", "text", "html", "attach", "headers"}
        if unknown:
            raise Wrong(f"t:mail knows no {', '.join(sorted(unknown))}; it knows subject text html attach headers")
        body = build.text(about["html"], "html") if "html" in about else build.text(about.get("text", "Hello\n"))
        message = Message(build.mail(list(fields.items()), body))
        for name, content in sorted((about.get("attach") or {}).items()):
            raw = content.encode("utf-8", "surrogateescape")
            message.root.attach(build.file(raw, "application/octet-stream", name))
        self._change(message=Message(bytes(message)))

    def dns(self, name: str, kind: str, *values: Any) -> None:
        for value in values or (None,):
            self._world.record(name, kind, None if value is False else "none" if value is None else str(value))

    def service(self, name: str, answer: dict[str, Any]) -> None:
        unknown = answer.keys() - set(Answer._fields)
        if unknown:
            raise Wrong(f"an answer has no {', '.join(sorted(unknown))}; it has {', '.join(Answer._fields)}")
        fields = {key: one.encode() if key in ("stdout", "stderr") else one for key, one in answer.items()}
        if self._world.answer(name, Answer(**{"code": 0, **fields})) and self._trial is not None:
            self._trial.reload()

    def entries(self, name: str, *entries: str) -> None:
        texts = self._world.texts.given
        texts[name] = texts.get(name, "") + "".join(f"{one}\n" for one in entries)

    def store(self, key: str, value: Any) -> None:
        self._world.store.set(key, value)

    def clock(self, text: str) -> None:
        if text[:1] == "+":
            self._world.time = self._world.now() + (times.seconds(text[1:]) or 0.0)
        else:
            when = times.parse(text)
            if isinstance(when, tuple):
                raise Wrong(when[1])
            self._world.time = when

    def user(self, *names: str) -> None:
        self._world.users.update(names)

    # -- running -----------------------------------------------------------------------------------------------------

    def run(self, until: str = "") -> None:
        if self._trial is None:
            self._trial = Trial(self._load(self._world), self._world, self._sketch)
        self._stages += self._trial.run(until)

    def step(self) -> str:
        if self._trial is None:
            self._trial = Trial(self._load(self._world), self._world, self._sketch)
        stage = self._trial.step()
        self._stages.append(stage)
        return stage.name

    def back(self) -> None:
        self._ran.back()

    def only(self, rule: str) -> None:
        self._before().only.add(rule)

    def skip(self, rule: str) -> None:
        self._before().skip.add(rule)

    def _before(self) -> Trial:
        if self._trial is None:
            self._trial = Trial(self._load(self._world), self._world, self._sketch)
        return self._trial

    @property
    def _ran(self) -> Trial:
        if self._trial is None or not self._trial.done:
            self.run()
        assert self._trial is not None
        return self._trial

    # -- looking -----------------------------------------------------------------------------------------------------

    def reply(self, stage: str, recipient: str | None = None) -> str:
        return self._stage(stage, recipient).reply

    def expect(self, stage: str, reply: str, recipient: str | None = None) -> None:
        found = self._stage(stage, recipient)
        if not like(found.reply, reply):
            self._differ(f"at {stage}", reply, found.reply or "nothing: nobody hears it", found)

    def decided(self, stage: str, rule: str, kind: str | None = None) -> None:
        candidates = [one for one in self._ran.done if one.name == stage] or [self._stage(stage, None)]
        for one in candidates:
            decided = one.decided
            if decided is not None and decided.rule == rule and kind in (None, decided.said):
                return
        last = candidates[-1].decided
        wanted = f'{kind or "a decision"} by "{rule}"'
        got = f'{last.said} by "{last.rule}" ({last.where})' if last is not None else "no rule decided"
        raise Wrong(f"at {stage}: expected {wanted}, got {got}{self._place(rule)}")

    def reached(self, rule: str) -> None:
        for stage in self._ran.done:
            for one in stage.rules:
                if one.rule == rule and one.said not in ("skipped", "not reached"):
                    return
        raise Wrong(f'expected the rule "{rule}" to be asked, but it was not{self._place(rule)}')

    def not_reached(self, rule: str) -> None:
        for stage in self._ran.done:
            for one in stage.rules:
                if one.rule == rule and one.said not in ("skipped", "not reached"):
                    raise Wrong(f'expected the rule "{rule}" not to be asked, but it said {one.said} ({one.where})')

    def header(self, name: str, value: str = "*") -> None:
        found = [text for field, text in self._fields() if field.lower() == name.lower()]
        if not any(like(_decoded(text), value) for text in found):
            got = ", ".join(repr(_decoded(text)) for text in found) or "no such field"
            raise Wrong(f"{name}: expected {value!r}, got {got}{self._spoke()}")

    def no_header(self, name: str) -> None:
        for field, text in self._fields():
            if field.lower() == name.lower():
                raise Wrong(f"expected no {name}, got {text!r}{self._spoke()}")

    def headers(self, name: str) -> Any:
        return [text for field, text in self._fields() if field.lower() == name.lower()]

    def envelope(self, wanted: dict[str, Any]) -> None:
        tx = self._ran.tx
        if "sender" in wanted and str(tx.sender or "") != wanted["sender"]:
            raise Wrong(f"expected the sender <{wanted['sender']}>, got <{tx.sender or ''}>{self._spoke()}")
        if "recipients" in wanted:
            expected, got = list(wanted["recipients"] or []), [str(one) for one in tx.recipients]
            if sorted(expected) != sorted(got):
                raise Wrong(f"expected the recipients {expected}, got {got}{self._spoke()}")

    def var(self, name: str, value: Any = None) -> Any:
        got = self._ran.tx.vars.get(name)
        if value is None:
            return got
        if got != value:
            raise Wrong(f"mail.vars.{name}: expected {value!r}, got {got!r}{self._spoke()}")
        return None

    def part(self, what: str, words: str = "*") -> None:
        known = []
        for part in self._content().parts():
            known.append(difference.outline(part).strip())
            if like(part.type, what) or any(like(name, what) for name in part.filenames):
                text = part.text() if part.type.startswith("text/") else part.decoded().decode("latin-1")
                if words == "*" or like(text, words):
                    return
        told = "; ".join(known)
        with_words = f" with {words!r}" if words != "*" else ""
        raise Wrong(f"expected a part {what!r}{with_words}, got {told}{self._spoke()}")

    def no_part(self, what: str) -> None:
        for part in self._content().parts():
            if like(part.type, what) or any(like(name, what) for name in part.filenames):
                raise Wrong(f"expected no part {what!r}, got {difference.outline(part).strip()}{self._spoke()}")

    def body(self, words: str) -> None:
        for part in self._content().parts():
            if not part.multipart and part.type.startswith("text/"):
                if like(part.text(), words):
                    return
                raise Wrong(f"expected a body {words!r}, got {part.text()[:200]!r}{self._spoke()}")
        raise Wrong(f"expected a body {words!r}, got none")

    def routed(self, recipient: str, way: str) -> None:
        routes = dict(difference.routes(self._ran.tx))
        got = routes.get(f"route <{recipient}>", "as the settings say")
        if not like(got, way):
            raise Wrong(f"route of <{recipient}>: expected {way!r}, got {got!r}{self._spoke()}")

    def logged(self, event: str, fields: dict[str, Any] | None = None) -> None:
        if not self._logged(event, fields):
            got = "; ".join(f"{name} {about}" for name, about in self._ran.world.events[-10:]) or "an empty log"
            raise Wrong(f"expected the event {event} {fields or ''} in the log, got {got}")

    def not_logged(self, event: str, fields: dict[str, Any] | None = None) -> None:
        found = self._logged(event, fields)
        if found:
            raise Wrong(f"expected no event {event} in the log, got {found[0]}")

    def asked(self, word: str, argument: str = "*") -> None:
        if not self._asked(word, argument):
            got = ", ".join(f"{one.word}{one.arguments}" for one in self._all_asked()) or "nothing was asked"
            raise Wrong(f"expected {word}({argument}) to be asked, got {got}")

    def not_asked(self, word: str, argument: str = "*") -> None:
        for rule, one in self._calls():
            if like(one.word, word) and any(like(str(given), argument) for given in (*one.arguments, "")):
                raise Wrong(f'expected {word}({argument}) not to be asked, but "{rule.rule}" did ({rule.where})')

    def result(self, text: str) -> None:
        got = self._ran.result
        if not like(got, text):
            raise Wrong(f"expected the result {text!r}, got {got!r}{self._spoke()}")

    def equal(self, got: Any, expected: Any = None) -> None:
        if got != expected:
            raise Wrong(f"expected {expected!r}, got {got!r}")

    # -- and what that needs -----------------------------------------------------------------------------------------

    def _stage(self, name: str, recipient: str | None) -> Stage:
        found = [
            one for one in self._ran.done if one.name == name and (recipient is None or str(one.recipient) == recipient)
        ]
        if not found:
            ran = ", ".join(one.name for one in self._ran.done)
            who = f" for <{recipient}>" if recipient else ""
            raise Wrong(f"{name}{who} was not reached: {self._ran.result} (stages that ran: {ran})")
        return found[-1]

    def _differ(self, what: str, expected: str, got: str, stage: Stage) -> None:
        decided = stage.decided
        by = f' (decided by "{decided.rule}", {decided.where})' if decided is not None else self._asked_at(stage)
        raise Wrong(f"{what}: expected {expected!r}, got {got!r}{by}")

    def _asked_at(self, stage: Stage) -> str:
        told = ", ".join(f'"{one.rule}" {one.where}' for one in stage.rules if one.said == "next")
        return f" (asked, without a decision: {told})" if told else " (no rule was asked)"

    def _spoke(self) -> str:
        last = next((one.decided for one in reversed(self._ran.done) if one.decided is not None), None)
        if last is not None:
            return f' (last decision: {last.said} by "{last.rule}", {last.where})'
        stage = next((one for one in reversed(self._ran.done) if one.rules), None)
        return self._asked_at(stage) if stage is not None else ""

    def _place(self, rule: str) -> str:
        trial = self._ran
        for stage in trial.done:
            for one in stage.rules:
                if one.rule == rule:
                    return f' ("{rule}" stands in {one.where} and said {one.said})'
        return f' (there is no rule "{rule}" this mail meets)'

    def _content(self) -> Message:
        message = self._ran.tx.message or self._sketch.message
        if message is None:
            raise Wrong("there is no mail: t:message, t:mail or t:load give one")
        return message

    def _fields(self) -> list[tuple[str, str]]:
        return difference.fields(self._content())

    def _logged(self, event: str, fields: dict[str, Any] | None) -> list[dict[str, Any]]:
        return [
            about
            for name, about in self._ran.world.events
            if name == event and all(like(str(about.get(key, "")), str(value)) for key, value in (fields or {}).items())
        ]

    def _calls(self) -> Iterator[tuple[Spoke, Any]]:
        for stage in self._ran.done:
            for rule in stage.rules:
                for one in rule.asked:
                    yield rule, one

    def _all_asked(self) -> list[Any]:
        return [one for _, one in self._calls()]

    def _asked(self, word: str, argument: str) -> bool:
        return any(
            like(one.word, word) and any(like(str(given), argument) for given in (*one.arguments, ""))
            for one in self._all_asked()
        )


def _text(value: Any) -> Any:
    """Text from Lua, in which a byte is a character, as text; inside tables too."""
    if isinstance(value, str):
        return value.encode("latin-1").decode("utf-8", "surrogateescape")
    if isinstance(value, dict):
        return {_text(key): _text(one) for key, one in value.items()}
    return [_text(one) for one in value] if isinstance(value, list) else value


def _bytes(text: str) -> str:
    return text.encode("utf-8", "surrogateescape").decode("latin-1")


def _decoded(value: str) -> str:
    try:
        return value.encode("latin-1").decode("utf-8")
    except UnicodeError:
        return value


def _address(text: str) -> Address:
    text = text.strip().removeprefix("<").removesuffix(">")
    try:
        return address.parse(text) if text else NULL
    except Refused as refused:
        raise Wrong(f"{text}: {refused.reply.text}") from None


def runner(folder: Path) -> Rules:
    """The Lua that files of tests run in: the sandbox of rules, with no rules in it. `folder` is an empty one."""
    (folder / "main.lua").write_text("")
    return Rules.load(settings.Rules(path=str(folder), domains=str(folder / "none")), TrialWorld())
