"""Services: helpers outside us which rules may ask, one small module per type behind one interface.

`[service.NAME]` in the settings says what it is; a rule calls it by that name. A service is asked with a `Request` and
gives an `Answer`, whose fields are flat: nothing else crosses to Lua. What goes wrong with the asking (the program
cannot be started, is out of time, ends with a code it should not) is a fault, and the setting `fault` decides:

    defer    the stage ends with a 451: nothing passes unchecked (the default)
    deny     the stage ends with a 554
    ignore   the rule goes on and reads `failed`
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple, Protocol

from mta import log
from mta.message.reply import Refused
from mta.rules.outside.services.request import Answer, Request
from mta.settings import Service as Setting

__all__ = ["Answer", "Request", "Service", "Services"]

UNAVAILABLE = {
    "defer": "451 4.3.0 A check of this mail cannot be made now, try again later",
    "deny": "554 5.3.0 A check of this mail cannot be made",
}
SHOWN = 500  # characters of stderr in the log


class Service(Protocol):
    """One service. `call` parks the greenlet and never raises for what happens outside; that is `Answer.failed`.

    It raises ValueError for a request it cannot be asked with (a part is wanted and none is there): a rule's mistake.
    """

    def call(self, request: Request) -> Answer: ...


def _program(setting: Setting) -> Service:
    from mta.rules.outside.services.program import Program  # brings gevent along

    return Program(setting)


TYPES: dict[str, Callable[[Setting], Service]] = {"program": _program}


class Count(NamedTuple):
    """What a service did so far; `ms` is the sum."""

    calls: int = 0
    faults: int = 0
    ms: float = 0.0


class Services:
    """All services of the settings, ready to be called by name. Raises ValueError for a setting that cannot work.

    `given` are services that are there already (fakes); `say` is told the events.
    """

    def __init__(
        self,
        settings: Mapping[str, Setting],
        given: Mapping[str, Service] | None = None,
        say: Callable[..., None] = log.event,
    ) -> None:
        given = given or {}
        self._settings = {**{name: Setting() for name in given}, **settings}
        self._services: dict[str, Service] = dict(given)
        self._counts = dict.fromkeys(self._settings, Count())
        self._say = say
        for name in settings.keys() - given.keys():
            setting = settings[name]
            try:
                self._services[name] = TYPES[setting.type](setting)
            except ValueError as error:
                raise ValueError(f"[service.{name}] {error}") from None

    def names(self) -> Iterable[str]:
        return self._services.keys()

    def call(self, name: str, request: Request) -> Answer:
        """Ask a service. Raises Refused for a fault its setting does not ignore, KeyError for an unknown name."""
        setting = self._settings[name]
        answer = self._services[name].call(request)
        count = self._counts[name]
        self._counts[name] = Count(count.calls + 1, count.faults + bool(answer.failed), count.ms + answer.ms)
        facts: dict[str, Any] = {
            **request.about,
            "service": name,
            "code": answer.code,
            "signal": answer.signal,
            "ms": answer.ms,
        }
        if not answer.failed:
            self._say("service_called", **facts)
            return answer
        said, reason = request.hide(answer.stderr.decode("utf-8", "replace")), request.hide(answer.failed)
        self._say("service_failed", **facts, reason=reason, said=said[:SHOWN].strip(), fault=setting.fault)
        if setting.fault in UNAVAILABLE:
            raise Refused(UNAVAILABLE[setting.fault], f"service {name}: {reason}")
        return answer

    def status(self) -> dict[str, dict[str, float]]:
        """{name: {calls, faults, ms}}, ms being the sum of all calls."""
        return {name: count._asdict() for name, count in self._counts.items()}
