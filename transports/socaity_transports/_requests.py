"""`Requests`: what was asked of the server besides calls, and who waits for the answers."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any

__all__ = ["Requests"]


class Requests:
    """Answers to come, by the number of the request. They are forgotten when they have come, or nobody waits any more."""

    def __init__(self) -> None:
        self._answers: dict[int, asyncio.Future[Any]] = {}

    def __bool__(self) -> bool:
        return bool(self._answers)

    def add(self, number: int) -> asyncio.Future[Any]:
        """The answer to a request that is about to be sent."""
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._answers[number] = answer
        answer.add_done_callback(partial(self._forget, number))
        return answer

    def answer(self, number: int, value: Any) -> None:
        """It has come."""
        answer = self._answers.get(number)
        if answer is not None and not answer.done():
            answer.set_result(value)

    def refuse(self, number: int, error: Exception) -> None:
        """The server said no, or it could not be sent."""
        answer = self._answers.get(number)
        if answer is not None and not answer.done():
            answer.set_exception(error)

    def refuse_all(self, error: Exception) -> None:
        """No answer can come any more."""
        for number in list(self._answers):
            self.refuse(number, error)

    def _forget(self, number: int, answer: asyncio.Future[Any]) -> None:
        if self._answers.get(number) is answer:
            del self._answers[number]
