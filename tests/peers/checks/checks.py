"""Checks by name: `PROGRAM HOST HTTP_PORT GRPC_PORT [PART OF A NAME]` runs those of a program and prints one JSON object.

`true` for a check that holds, else the reason why not; `PROGRAM --names` prints the names. Runs in the environments of the
peers: the standard library only.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import traceback
from collections.abc import Awaitable, Callable
from typing import NamedTuple, TypeVar

DEADLINE = 30.0
"""Seconds that one check may take: a server that never answers is a finding, not a program that hangs."""

_Error = TypeVar("_Error", bound=BaseException)
Check = Callable[["Address"], None]


class Address(NamedTuple):
    """Where the server is."""

    host: str
    http_port: int
    grpc_port: int

    @property
    def http(self) -> str:
        return f"{self.host}:{self.http_port}"

    @property
    def grpc(self) -> str:
        return f"{self.host}:{self.grpc_port}"


class Checks:
    """The checks of a program, in order."""

    def __init__(self) -> None:
        self._checks: dict[str, Check] = {}

    def __call__(self, name: str) -> Callable[[Check], Check]:
        """Decorates a function that raises if the check does not hold."""

        def add(check: Check) -> Check:
            if name in self._checks:
                raise ValueError(f"two checks are called {name!r}; give one of them another name")
            self._checks[name] = check
            return check

        return add

    def main(self) -> None:
        """Do what the command line asks for."""
        if sys.argv[1:] == ["--names"]:
            print(json.dumps(list(self._checks)))
            return
        host, http_port, grpc_port, *only = sys.argv[1:]
        address = Address(host, int(http_port), int(grpc_port))
        chosen = {name: check for name, check in self._checks.items() if not only or only[0] in name}
        found = {name: _run(check, address) for name, check in chosen.items()}
        print(json.dumps(found, indent=1), flush=True)
        os._exit(0)  # a check that hangs has a thread that would keep the program from ending


def _run(check: Check, address: Address) -> bool | str:
    found: list[bool | str] = []

    def run() -> None:
        try:
            check(address)
        except BaseException as exc:
            place = traceback.extract_tb(exc.__traceback__)[-1]
            said = f"{type(exc).__name__}: {exc}" if str(exc) else type(exc).__name__
            found.append(f"{said[:600]} ({os.path.basename(place.filename)}:{place.lineno}: {place.line})")
        else:
            found.append(True)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(DEADLINE)
    return found[0] if found else f"it did not end within {DEADLINE:.0f} s"


def raised(kind: type[_Error], call: Callable[[], object]) -> _Error:
    """What the call raises; it is an AssertionError if it does not."""
    try:
        answer = call()
    except kind as exc:
        return exc
    raise AssertionError(f"it was answered: {str(answer)[:300]}")


async def raised_later(kind: type[_Error], answer: Awaitable[object]) -> _Error:
    """`raised` for what has to be awaited."""
    try:
        got = await answer
    except kind as exc:
        return exc
    raise AssertionError(f"it was answered: {str(got)[:300]}")


def is_same(got: object, expected: object, what: str) -> None:
    """Raises and says what was expected."""
    if got != expected or type(got) is not type(expected):
        raise AssertionError(f"{what} is {got!r}, not {expected!r}")
