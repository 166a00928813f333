"""The words of `t` that describe a session, make up a world for it, and run it (see scripts.py)."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mta.message import address, build
from mta.message.address import NULL, Address
from mta.message.message import Message
from mta.message.reply import Refused
from mta.rules.engine.engine import Rules
from mta.rules.outside.services.request import Answer
from mta.rules.trying.sketch import Sketch, Stage
from mta.rules.trying.trial import Trial
from mta.rules.trying.trial_world import TrialWorld
from mta.rules.words import times


class Wrong(Exception):
    """An expectation that was not met, or something asked in a way that makes no sense."""


class MadeUp:
    """A session as a test describes it; it runs when somebody looks at what came of it."""

    def __init__(
        self, folder: Path, world: TrialWorld, load: Callable[[TrialWorld], Callable[[], Rules]], sketch: Sketch
    ) -> None:
        self._folder, self._world, self._load, self._sketch = folder, world, load, sketch
        self._trial: Trial | None = None
        self._stages: list[Stage] = []  # all that ran, also those gone back from

    # -- what is made up ---------------------------------------------------------------------------------------------

    def session(self, facts: dict[str, Any]) -> None:
        for name, value in facts.items():
            if name in ("from", "sender"):
                self._change(sender=_address(value))
            elif name in ("to", "rcpt", "recipients"):
                self._change(recipients=[_address(one) for one in ([value] if isinstance(value, str) else value)])
            elif name in ("ip", "name", "helo", "user", "password", "tls", "listener", "server"):
                self._change(**{name: str(value)})
            elif name == "port":
                self._change(port=int(value))
            elif name == "trusted":
                self._change(trusted=bool(value))
            elif name == "vars":
                self._change(vars=value)
            else:
                known = "ip port name helo from to tls user password listener trusted vars"
                raise Wrong(f"a session has no {name}; it has {known}")

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


def _address(text: str) -> Address:
    text = text.strip().removeprefix("<").removesuffix(">")
    try:
        return address.parse(text) if text else NULL
    except Refused as refused:
        raise Wrong(f"{text}: {refused.reply.text}") from None
