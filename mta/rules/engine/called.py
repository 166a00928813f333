"""The Python functions Lua may call, under the laws that stand in sandbox.py.

A mail is a number here, as Lua knows it. A stage is its place in STAGES, a rule its place in the stage.
"""

from __future__ import annotations

import functools
import json
import struct
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from mta import log
from mta.message.headers import Headers
from mta.rules import verdict
from mta.rules.engine import lines
from mta.rules.engine.coverage import Coverage
from mta.rules.engine.crossing import answered, flat, handed, never_raises, said, short, shown, utf8
from mta.rules.engine.listing import Listing
from mta.rules.engine.side import Side
from mta.rules.outside.world import World
from mta.rules.transaction import FIELD, Transaction
from mta.rules.verdict import STAGES
from mta.rules.words import api
from mta.rules.words.inner import Inner, takes_long
from mta.rules.words.pure import Heavy

Source = Callable[[str], tuple[str | None, str]]  # the name of a module -> (text, file name), or (None, why not)
Asks = Mapping[str, Any]  # what answers a word: a function, or what knows how to be asked: Inner, OfMail

_quick = msgspec.json.Encoder().encode
_careful = json.JSONEncoder(separators=(",", ":")).encode  # in ASCII, so that one byte of Lua stays one character
_read = msgspec.json.Decoder().decode


class Called:
    """What one runtime of Lua calls. `sides` are the transactions Lua knows, by number; `inner` those of `asks`."""

    def __init__(
        self,
        world: World,
        source: Source,
        asks: Asks,
        inner: dict[str, Inner],
        sides: dict[int, Side],
        listing: Listing,
    ) -> None:
        self._world, self._source, self._asks, self._inner = world, source, asks, inner
        self._sides, self._listing = sides, listing
        self.coverage: Coverage | None = None  # wants to know which lines there are

    def functions(self) -> dict[str, Callable[..., Any]]:
        """All of them, under the names they have in Lua."""
        own: list[Callable[..., Any]] = [
            self.unknown, self.wrong_stage, self.check_reply, self.vars, self.keep_vars, self.recipients, self.size,
            self.credential, self.relay, self.say, self.traced, self.rule, self.module, self.with_lines, self.ask,
            self.ask_mail,
        ]  # fmt: skip
        functions = {one.__name__: never_raises(one) for one in own} | self._header_functions()
        functions["source"] = functions.pop("module")
        functions["random"] = never_raises(self._world.random)
        functions["now"] = never_raises(self._world.now)
        return functions

    def _mail(self, number: int) -> Transaction:
        side = self._sides.get(number)
        if side is None or side.tx is None:
            raise ValueError("this mail is over")
        return side.tx

    def _header_functions(self) -> dict[str, Callable[..., Any]]:
        """One function for each method of mail.headers, with as little between Lua and the header as can be."""
        sides: Mapping[int, Any] = self._sides  # a mail or message that is not there raises; failed() says why

        def failed(number: int, error: Exception) -> tuple[None, str]:
            side = sides.get(number)
            if isinstance(error, ValueError):
                return None, shown(str(error))
            if side is None or side.tx is None:
                return None, "this mail is over"
            if side.tx.message is None:
                return None, "this mail has no content yet"
            log.bug(error)
            return None, f"the server failed: {type(error).__name__}"

        def made(method: Callable[..., Any], answer: Callable[[Any], Any] | None = None) -> Callable[..., Any]:
            def call(number: int, *args: str) -> Any:
                try:
                    found = method(sides[number].tx.message.headers, *args)
                    return answer(found) if answer else found
                except Exception as error:
                    return failed(number, error)

            return call

        def writes(how: str) -> Callable[..., Any]:
            method = getattr(Headers, how)

            def call(number: int, name: str, value: str) -> Any:
                try:
                    tx = sides[number].tx
                    if tx.message is None and how != "rename":
                        return tx.put_early(how, name, value)
                    tx.give(FIELD + len(name) + len(value))
                    return method(tx.message.headers, name, value)
                except Exception as error:
                    return failed(number, error)

            return call

        def get(number: int, name: str) -> Any:
            try:
                found = sides[number].tx.message.headers.get(name)
                return found if found is None else shown(found)
            except Exception as error:
                return failed(number, error)

        return {
            "header_has": made(Headers.has),
            "header_get": get,
            "header_all": made(Headers.all, flat),
            "header_count": made(Headers.count),
            "header_append": writes("append"),
            "header_prepend": writes("prepend"),
            "header_set": writes("set"),
            "header_rename": writes("rename"),
            "header_remove": made(Headers.remove),
        }

    def vars(self, number: int) -> str | None:
        found = self._mail(number).vars
        if not found:
            return None
        text = _quick(found).decode()
        return text if text.isascii() else _careful(found)

    def keep_vars(self, number: int, text: str) -> None:
        side = self._sides[number]
        if side.tx is not None:
            side.tx.vars = vars = _read(text)
            side.seen = (*side.seen[:-1], vars)

    def recipients(self, number: int) -> str | tuple[str, str]:
        found = self._mail(number).recipients
        if len(found) == 1:
            return short(found[0].local_part), short(found[0].domain)
        return flat([part for a in found for part in (a.local_part, a.domain)])

    def size(self, number: int) -> int:
        message = self._mail(number).message
        return 0 if message is None else message.size

    def credential(self, number: int, name: str) -> str | None:
        credentials = self._mail(number).credentials
        if credentials is None:
            raise ValueError("these credentials are gone")
        return utf8(getattr(credentials, name)) or None

    def relay(self, number: int) -> None:
        self._mail(number).allow_relay(self._sides[number].stage)

    def check_reply(self, kind: str, text: str, close: bool) -> str | None:
        wrong = verdict.complaint(kind, said(text), close)
        return shown(wrong) if wrong else None

    def unknown(self, thing: str, key: str, stage: int) -> str:
        return shown(api.unknown(thing, key, STAGES[stage] if stage >= 0 else None))

    def wrong_stage(self, name: str, stage: int) -> str:
        return api.wrong_stage(name, STAGES[stage])

    def rule(self, stage: int, name: str, where: str) -> str | None:
        wrong = self._listing.add(stage, said(name), where)
        return shown(wrong) if wrong else None

    def module(self, name: str) -> tuple[str | None, str]:
        text, file = self._source(name)
        return text, shown(file)

    def ask(self, word: str, can_wait: bool, *arguments: Any) -> tuple[str, Any]:
        """A word that does not wait; "later" if it would take long here and the rule can be made to wait."""
        asked = self._asks[word]
        try:
            if can_wait and isinstance(asked, Heavy) and asked.much(*arguments):
                return "later", None
            tag, value = answered(word, asked, arguments)
        except Exception as error:
            log.bug(error)
            return "none", "the server failed"
        return tag, handed(value)

    def ask_mail(self, number: int, word: str, *arguments: Any) -> tuple[str, Any]:
        """A word about the mail; "later" if it would take long here."""
        tx, inner = self._mail(number), self._inner[word]
        if inner.grows:
            if takes_long(tx, arguments):
                return "later", None
        elif len(arguments) > 2:  # (part, name of a field, value ...)
            tx.give(FIELD + sum(len(value) for value in arguments[2:] if isinstance(value, str)))
        try:
            tag, value = answered(word, functools.partial(inner.answer, tx), arguments)
        except Exception as error:
            log.bug(error)
            return "none", "the server failed"
        return tag, handed(value)

    def with_lines(self, code: str) -> str:
        if self.coverage is not None:
            self.coverage.compiled(code.encode("latin-1"))
        try:
            return lines.keep(code.encode("latin-1")).decode("latin-1")
        except (IndexError, struct.error) as error:  # another layout of Lua 5.4: errors say less, nothing else
            log.bug(error)
            return code

    def say(self, number: int, level: str, rule: int, where: str, message: str, topic: str | None) -> None:
        event = "rule_log" if level == "info" else f"rule_{level}"
        about = {"message": said(message)} if topic is None else {"topic": said(topic), "message": said(message)}
        side = self._sides.get(number)
        if side is None or side.tx is None:
            self._world.log(event, where=where, **about)
            return
        tx, name = side.tx, self._listing.named(side, rule)[0]
        tx.tell(len(message))
        if tx.credentials is not None:
            about = tx.credentials.hide(about)
        self._world.log(event, session=tx.session, mail=tx.mail_id, stage=side.stage, rule=name, where=where, **about)

    def traced(self, number: int, rule: int, kind: str, units: int) -> None:
        side = self._sides[number]
        side.note(*self._listing.named(side, rule), kind, units)
