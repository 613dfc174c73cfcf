"""`socaity top URL`: what the dashboard shows, in a terminal."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Generator, Iterator
from typing import Any, TextIO, TypeAlias
from urllib.parse import urlsplit

from websockets.exceptions import ConnectionClosed, InvalidStatus, WebSocketException
from websockets.sync.client import connect
from websockets.typing import Subprotocol

from .live import PROTOCOL
from .top_screen import History, clean, draw, paint

__all__ = ["top"]

_FAILED, _USAGE, _INTERRUPTED, _TERMINATED = 1, 2, 130, 143
_LOOK = 0.25
"""Seconds between two looks at the keyboard and the size of the terminal."""
_RATES_WITHIN = 3.0
"""Seconds that `--once` waits for the first rates, for which the server looks twice."""
_OPEN_TIMEOUT = 10.0
_MAX_MESSAGE = 64 * 2**20
_PLAIN_WIDTH = 160
_LONGEST_REASON = 500
_SCHEMES = {"http": "ws", "https": "wss", "ws": "ws", "wss": "wss"}

Snapshot: TypeAlias = dict[str, Any]


class _UsageError(Exception):
    """The URL cannot be meant."""


class _Unreachable(Exception):
    """There is nothing to show; says why."""


def top(argv: list[str]) -> int:
    """Show a service until `q` or Ctrl-C. 0 done, 1 no connection, 2 wrong usage, 130 interrupted."""
    try:
        options = _parser().parse_args(argv)
    except SystemExit as exc:  # argparse has said why
        return exc.code if isinstance(exc.code, int) else _USAGE
    is_terminal = sys.stdout.isatty() and os.environ.get("TERM") != "dumb"
    _forgive_encoding(sys.stdout)
    try:
        url = _socket_url(options.url)
        key = _key(options.api_key or os.environ.get("SOCAITY_API_KEY") or "")
        with contextlib.closing(_watch(url, key)) as events:
            if options.once or not (options.json or is_terminal):
                _print(_first(events), as_json=options.json)
            elif options.json:
                _stream(events)
            else:
                _show(events)
    except _UsageError as exc:
        print(f"socaity top: {exc}", file=sys.stderr)
        return _USAGE
    except _Unreachable as exc:
        print(f"socaity top: {exc}", file=sys.stderr)
        return _FAILED
    except KeyboardInterrupt:
        return _INTERRUPTED
    except BrokenPipeError:  # who read the lines has enough
        # the interpreter flushes once more at its end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="socaity top",
        description="Show the models, queues and jobs of a service, live. Where the output is no terminal: once, as text.",
    )
    parser.add_argument("url", help="of the service: http://127.0.0.1:8000")
    parser.add_argument(
        "--api-key",
        metavar="KEY",
        help="sent as a bearer token (default: SOCAITY_API_KEY, which others cannot see)",
    )
    parser.add_argument("--json", action="store_true", help="snapshots as JSON, one in a line")
    parser.add_argument("--once", action="store_true", help="one snapshot, then end")
    return parser


def _key(given: str) -> str | None:
    """The key as it is sent. Raises _UsageError, which never has it."""
    key = given.strip()
    if not (key.isascii() and key.isprintable()):
        raise _UsageError(
            "the API key has characters that no header can carry; look at where it is read from"
        )
    return key or None


def _socket_url(url: str) -> str:
    """Where the live view of a service is. Raises _UsageError."""
    parts = urlsplit(url if "://" in url else f"http://{url}")
    if parts.scheme.startswith("oip+"):
        raise _UsageError(
            f"a server of the Open Inference Protocol has no live view, only our own has one: give its address as "
            f"http://{parts.netloc.rpartition('@')[2]}"
        )
    try:
        has_place = bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        has_place = False
    if not has_place or parts.scheme not in _SCHEMES:
        raise _UsageError("a service has a URL like http://127.0.0.1:8000")
    path = parts.path.rstrip("/").removesuffix("/dashboard")
    return parts._replace(scheme=_SCHEMES[parts.scheme], path=f"{path}/ws", query="", fragment="").geturl()


# What comes


def _watch(url: str, api_key: str | None = None) -> Generator[Snapshot | str | None, None, None]:
    """Snapshots as they come, None when it is time for a look at the terminal, and a text when the connection was lost.

    Connects again as often as needed. Raises _Unreachable where the very first connection gives nothing.
    """
    has_begun = False
    attempts = 0
    while True:
        try:
            with connect(
                url,
                subprotocols=[Subprotocol(PROTOCOL)],
                additional_headers=None if api_key is None else {"Authorization": f"Bearer {api_key}"},
                compression=None,
                open_timeout=_OPEN_TIMEOUT,
                close_timeout=1,
                max_size=_MAX_MESSAGE,
            ) as socket:
                while True:
                    try:
                        message = socket.recv(timeout=_LOOK)
                    except TimeoutError:
                        yield None
                        continue
                    snapshot = json.loads(message)
                    has_begun, attempts = True, 0
                    yield snapshot
        except (OSError, WebSocketException, ValueError) as exc:
            trouble = _explain(exc, has_key=api_key is not None)
        if not has_begun:
            raise _Unreachable(f"{_place(url)} {trouble}")
        yield trouble
        due = time.monotonic() + min(0.5 * 2**attempts, 10.0)
        attempts = min(attempts + 1, 10)
        while time.monotonic() < due:
            time.sleep(_LOOK)
            yield None


def _place(url: str) -> str:
    parts = urlsplit(url)  # without a password
    return f"{parts.hostname}:{parts.port}" if parts.port else str(parts.hostname)


def _explain(exc: Exception, *, has_key: bool) -> str:
    if isinstance(exc, InvalidStatus):
        status = exc.response.status_code
        if status == 401 and has_key:
            return f"refused the API key or token that was given: {_reason(exc)}"
        if status == 401:
            return "wants to know who you are: give an API key or a token with --api-key or SOCAITY_API_KEY"
        if status == 403:
            return "does not show its live view to the key that was given (HTTP 403)"
        return f"has no live view (HTTP {exc.response.status_code})"
    if isinstance(exc, ConnectionClosed):
        reason = exc.rcvd.reason if exc.rcvd is not None else ""
        return f"closed the connection{f': {reason}' if reason else ''}"
    if isinstance(exc, TimeoutError):
        return "does not answer"
    if isinstance(exc, OSError):
        return f"cannot be reached: {(exc.strerror or str(exc)).lower()}"
    return f"does not speak {PROTOCOL}: {exc}"


def _reason(refusal: InvalidStatus) -> str:
    """What the server says of it, fit for a terminal."""
    try:
        detail = json.loads(refusal.response.body or b"")["detail"]
    except (ValueError, LookupError, TypeError):
        detail = None
    return clean(detail)[:_LONGEST_REASON] if isinstance(detail, str) and detail else "HTTP 401"


def _first(events: Iterator[Snapshot | str | None]) -> Snapshot:
    """The first snapshot that has rates, or the newest after a while."""
    deadline = time.monotonic() + _RATES_WITHIN
    newest: Snapshot | None = None
    for event in events:
        if isinstance(event, dict):
            newest = event
        served = [model for model in (newest or {}).get("models", ()) if model["served"]]
        is_late = time.monotonic() > deadline
        if newest is not None and (is_late or all(model["rates"] for model in served)):
            return newest
        if is_late and time.monotonic() > deadline + _OPEN_TIMEOUT:
            break
    raise _Unreachable("the service sent nothing")


# What goes out


def _print(snapshot: Snapshot, *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(snapshot), flush=True)
        return
    colour = sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    width = shutil.get_terminal_size((_PLAIN_WIDTH, 24)).columns if sys.stdout.isatty() else _PLAIN_WIDTH
    for line in draw(snapshot, width=width):
        print(paint(line, width=width, colour=colour))
    sys.stdout.flush()


def _stream(events: Iterator[Snapshot | str | None]) -> None:
    for event in events:
        if isinstance(event, dict):
            print(json.dumps(event), flush=True)
        elif event is not None:
            print(f"socaity top: the service {event}; trying again", file=sys.stderr, flush=True)


def _show(events: Iterator[Snapshot | str | None]) -> None:
    """Fill the terminal until `q`; it is as before in the end, however it ends."""
    # the first snapshot before the screen changes, so that an error stays readable
    snapshot = next(event for event in events if isinstance(event, dict))
    colour = not os.environ.get("NO_COLOR")
    history = History()
    history.take(snapshot)
    taken_at = time.monotonic()
    trouble = ""
    with _Terminal() as terminal:
        while True:
            later = time.monotonic() - taken_at
            note = (f"reconnecting, last update {later:.0f} s ago", "bad") if trouble else ("live", "good")
            width, height = shutil.get_terminal_size()
            lines = draw(snapshot, width=width, height=height, note=note, rates=history.rates, later=later)
            terminal.fill([paint(line, width=width, colour=colour) for line in lines])
            event = next(events)
            if isinstance(event, dict):
                snapshot, taken_at, trouble = event, time.monotonic(), ""
                history.take(snapshot)
            elif event is not None:
                trouble = event
            if terminal.wants_to_quit():
                return


class _Terminal:
    """The alternate screen of the terminal, without a cursor and with keys that come at once."""

    def __init__(self) -> None:
        self._stack = contextlib.ExitStack()
        self._has_keys = False

    def __enter__(self) -> _Terminal:
        try:
            if threading.current_thread() is threading.main_thread():
                before = signal.signal(signal.SIGTERM, _terminate)
                self._stack.callback(signal.signal, signal.SIGTERM, before)
            self._stack.callback(self._write, "\x1b[?25h\x1b[?1049l")
            self._write("\x1b[?1049h\x1b[?25l")
            self._take_keys()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stack.close()

    def fill(self, lines: list[str]) -> None:
        """Write over what is there, without clearing it first, which would flicker."""
        self._write("\x1b[H" + "\r\n".join(f"{line}\x1b[K" for line in lines) + "\x1b[J")

    def wants_to_quit(self) -> bool:
        """Whether `q` was pressed."""
        if not self._has_keys:
            return False
        import select

        ready, _, _ = select.select([sys.stdin], [], [], 0)
        return bool(ready) and b"q" in os.read(sys.stdin.fileno(), 64)

    def _take_keys(self) -> None:
        if not sys.stdin.isatty():
            return
        try:
            import termios
            import tty
        except ImportError:  # Windows: Ctrl-C ends it
            return
        before = termios.tcgetattr(sys.stdin)
        self._stack.callback(termios.tcsetattr, sys.stdin, termios.TCSADRAIN, before)
        tty.setcbreak(sys.stdin)
        self._has_keys = True

    def _write(self, text: str) -> None:
        sys.stdout.write(text)
        sys.stdout.flush()


def _terminate(number: int, frame: object) -> None:
    raise SystemExit(_TERMINATED)  # through the blocks that restore the terminal


def _forgive_encoding(stream: TextIO) -> None:
    reconfigure: Any = getattr(stream, "reconfigure", None)
    if reconfigure is not None:
        reconfigure(errors="replace")
