"""The words of `t` that look at what came of a session: what was expected, and what is there (see scripts.py)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from difflib import get_close_matches
from typing import Any

from mta.message.message import Message
from mta.message.reply import Refused
from mta.rules.engine import difference
from mta.rules.engine.coverage import Coverage
from mta.rules.trying.dialogue import like
from mta.rules.trying.made_up import MadeUp, Wrong
from mta.rules.trying.sketch import Spoke, Stage

_OF = {"list": "entries"}  # words of `t` that mean something else in Python


class Session(MadeUp):
    """What `t` stands for: a session to be described, run and looked at. Its public methods are the words of `t`."""

    def answer(self, name: str, text: str) -> tuple[str, str | None]:
        """Do what `t:name(...)` asks: ("ok", JSON or None) or ("fail", why)."""
        hidden = name.startswith("_") or name in ("answer", "covered")
        method = None if hidden else getattr(Session, _OF.get(name, name), None)
        if method is None:
            known = [one for one in dir(Session) if one[0] != "_" and one not in ("answer", "covered")]
            near = get_close_matches(name, known, 1)
            hint = f"did you mean t:{near[0]}?" if near else '"mta lua doc test" lists what there is'
            return "fail", f"there is no t:{name} ({hint})"
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
