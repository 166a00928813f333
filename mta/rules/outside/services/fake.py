"""A service for tests: it gives the answers it was told to give and remembers what it was asked."""

from __future__ import annotations

from collections.abc import Callable

from mta.rules.outside.services.request import Answer, Request


class FakeService:
    """Gives its answers in order, the last one for ever. An answer may be a function of the request."""

    def __init__(self, *answers: Answer | Callable[[Request], Answer]) -> None:
        self._answers = list(answers) or [Answer(code=0)]
        self.requests: list[Request] = []

    def call(self, request: Request) -> Answer:
        self.requests.append(request)
        answer = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        return answer if isinstance(answer, Answer) else answer(request)
