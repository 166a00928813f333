"""The service type "program": its exit code, stdout and stderr are the answer.

    [service.clamav]
    type = "program"
    arguments = ["clamscan", "--no-summary", "-"]
    stdin = "mail"
    codes = [0, 1]             # clean, infected; anything else (2: an error) is a fault
    timeout = "20s"

Arguments and environment may hold {name}: facts of the mail, or values the rule gives. No shell reads them, and none
of them can become an option (net/program.py).
"""

from __future__ import annotations

from collections.abc import Iterable

from mta.net import program
from mta.rules.outside.services.request import Answer, Buffer, Request
from mta.settings import Service


class Program:
    """One `[service.NAME]` of type program. Raises ValueError for settings that cannot work."""

    def __init__(self, setting: Service) -> None:
        wrong = setting.complaint()
        if wrong:
            raise ValueError(" ".join(wrong))
        self._setting = setting
        given = (line.partition("=") for line in setting.environment)
        self._environment = {**program.CLEAN, **{name: value for name, _, value in given}}
        self._places = program.Places(setting.concurrency)

    def call(self, request: Request) -> Answer:
        setting = self._setting
        stdin = self._stdin(request)
        try:
            arguments = program.fill(setting.arguments, request.values)
            environment = program.fill_environment(self._environment, request.values)
        except ValueError as error:  # the mail's doing, or a name nobody gives
            return Answer(failed=str(error))
        timeout = setting.timeout if request.timeout is None else min(setting.timeout, request.timeout)
        ended = program.run(
            arguments,
            stdin=stdin,
            environment=environment,
            folder=setting.folder,
            timeout=timeout,
            keep=setting.output,
            places=self._places,
        )
        failed = ended.failed
        if not failed and setting.codes and ended.code not in setting.codes:
            failed = f"exit code {ended.code}"
        return Answer(**{**ended._asdict(), "failed": failed})

    def _stdin(self, request: Request) -> Iterable[Buffer]:
        wanted = self._setting.stdin
        if wanted == "none":
            return ()
        if wanted == "text":
            if request.text is None:
                raise ValueError("this service reads a text, and the call gives none")
            return (request.text,)
        pieces = request.mail if wanted == "mail" else request.part
        if pieces is None:
            raise ValueError(f"this service reads a {wanted}, and there is none in this call")
        return pieces
