"""`connect`, discovery and what a Service says when there is nobody, or somebody else."""

from __future__ import annotations

import asyncio
import functools
import socket
import threading
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, ClassVar, Self

import anyio
import pytest

import socaity
from socaity import (
    ConfigurationError,
    ConnectError,
    NotFoundError,
    TransportError,
    TransportTimeout,
)
from socaity.protocol.description import ParameterDescription
from socaity.transport import Target, Transport, open_transport

from .doubles import DEADLINE, HeldTransport, endpoint, held

DRAW = endpoint(
    "draw",
    ParameterDescription(name="text", json_schema={"type": "string"}),
    ParameterDescription(name="steps", json_schema={"type": "integer"}, required=False, default=4),
    doc="Draw a picture.\n\nSlowly.",
)


@pytest.fixture
def silent_port() -> Iterator[int]:
    """A port that takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening.getsockname()[1]


@pytest.fixture
def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return int(listening.getsockname()[1])


@pytest.fixture
def foreign_port() -> Iterator[int]:
    """A port where somebody answers every connection with `SSH-2.0` and hangs up."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            while True:
                try:
                    connection, _ = listening.accept()
                except OSError:
                    return
                with connection:
                    connection.recv(4096)
                    connection.sendall(b"SSH-2.0-OpenSSH_9.6\r\n")

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield listening.getsockname()[1]
        listening.shutdown(socket.SHUT_RDWR)
    thread.join(DEADLINE)


# -- wrong targets ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "options", "why"),
    [
        ("foo://x", {}, r"No transport for scheme 'foo' \(known: .*http, .*ws.*\); install one or pass transport="),
        ("http://x", {"transport": "pigeon"}, r"No transport is called 'pigeon' \(known: .*http.*websocket"),
        ("localhost:8000", {}, "is no URL; write http://localhost:8000"),
        ("", {}, "is no URL"),
        (5, {}, "takes a URL, a SocaityRouter or an ASGI app, not int"),
        ("http://x", {"transport": 5}, "must be a name or a Transport, not int"),
        ("http://", {}, "it needs a host"),
        ("http://me:secret@127.0.0.1:99999/x", {}, "^'http://127.0.0.1:99999/x' is no URL: it needs a host, and a port"),
        ("oip+grpc://h:0", {}, "a port, if it has one, from 1 to 65535"),
        ("ws://[::1", {}, "is no URL"),
        (HeldTransport, {}, "not the class HeldTransport; connect to an object of it"),
        (lambda: 1, {}, r"not <lambda>\(\), which cannot be called with \(scope, receive, send\)"),
    ],
)  # fmt: skip
def test_a_wrong_target_is_refused_at_once(target: Any, options: dict[str, Any], why: str) -> None:
    with pytest.raises(ConfigurationError, match=why):
        socaity.connect(target, **options)


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"timeout": 0}, "timeout must be a number of more than 0 seconds, not int 0"),
        ({"timeout": "3"}, "timeout must be a number of more than 0 seconds, not str '3'"),
        ({"timeout": float("nan")}, "timeout must be a number of more than 0 seconds, not float nan"),
        ({"timeout": True}, "timeout must be a number"),
        ({"headers": "x"}, "headers must map names to values, like .*, not str"),
        ({"headers": [("a", "b")]}, "headers must map names to values, like .*, not list"),
        ({"headers": {"X-Team": 5}}, "the value of the header 'X-Team' must be text, not int"),
        ({"headers": {5: "a"}}, "5 is no name of a header"),
        ({"retry": "x"}, "retry must be a RetryPolicy or a number of attempts from 1 on .*, not str 'x'"),
        ({"retry": 0}, r"number of attempts from 1 on \(1: never again\), not int 0"),
        ({"retry": -1}, "number of attempts from 1 on .*, not int -1"),
        ({"retry": True}, "number of attempts from 1 on .*, not bool True"),
        ({"progress": "off"}, "progress must be True or False, not str 'off'"),
    ],
)
def test_an_option_that_cannot_be_meant_is_named_at_once(options: dict[str, Any], why: str) -> None:
    with pytest.raises(ConfigurationError, match=why):
        socaity.connect("any://x", transport=HeldTransport(), **options)


def test_options_as_they_may_be_meant() -> None:
    for options in (
        {"timeout": 1},
        {"timeout": float("inf")},
        {"retry": 1},
        {"progress": 0},
        {"headers": {}},
    ):
        assert isinstance(socaity.connect("any://x", transport=HeldTransport(), **options), socaity.Service)


async def app(scope: Any, receive: Any, send: Any) -> None: ...


class App:
    async def __call__(self, scope: Any, receive: Any, send: Any) -> None: ...


def test_what_is_called_as_an_app_is_one() -> None:
    for one in (app, App(), functools.partial(app), SimpleNamespace(app=App())):
        assert repr(socaity.connect(one)) == "<Service inprocess: (not asked yet)>"


@pytest.mark.parametrize(
    ("numbers", "why"),
    [
        ({"attempts": 0}, "attempts must be a whole number from 1 on, got 0"),
        ({"attempts": 2.5}, "attempts must be a whole number"),
        ({"base_delay": -1}, "base_delay must be a number of seconds from 0 on, got -1"),
        ({"max_delay": "1"}, "max_delay must be a number of seconds from 0 on, got '1'"),
        ({"max_time": float("nan")}, "max_time must be a number of seconds"),
    ],
)
def test_a_retry_policy_with_numbers_that_cannot_be_meant_is_refused(numbers: Any, why: str) -> None:
    with pytest.raises(ConfigurationError, match=why):
        socaity.RetryPolicy(**numbers)


@pytest.mark.parametrize("options", [{"priority": "x"}, {"priority": 1.5}, {"timeout": "3"}, {"timeout": 0}])
def test_options_of_a_call_are_checked_by_their_name(options: Any) -> None:
    service, _ = held(endpoint("draw", direct=True))
    with pytest.raises(ConfigurationError, match=f"{next(iter(options))} must be"):
        service.draw.with_options(**options)
    service.close()


def test_open_transport_finds_by_scheme() -> None:
    assert type(open_transport(Target("ws://127.0.0.1:1"))).__name__ == "WebSocketTransport"
    with pytest.raises(ConfigurationError, match="No transport for scheme"):
        open_transport(Target("foo://x"))


@pytest.mark.parametrize("scheme", ["ws", "http"])
def test_a_refused_connection_is_a_connect_error_at_once(scheme: str, free_port: int) -> None:
    begun = time.monotonic()
    service = socaity.connect(f"{scheme}://127.0.0.1:{free_port}", progress=False)
    with pytest.raises(ConnectError, match=str(free_port)):
        service.refresh()
    assert time.monotonic() - begun < 5
    assert "predict" not in dir(service)
    service.close()


@pytest.mark.parametrize("scheme", ["ws", "http"])
def test_a_host_that_says_nothing_is_a_timeout(scheme: str, silent_port: int) -> None:
    begun = time.monotonic()
    service = socaity.connect(f"{scheme}://127.0.0.1:{silent_port}", timeout=0.2, progress=False)
    with pytest.raises(TransportTimeout):
        service.refresh()
    assert time.monotonic() - begun < 5
    service.close()


@pytest.mark.parametrize("scheme", ["ws", "http"])
def test_somebody_else_is_told_apart(scheme: str, foreign_port: int) -> None:
    service = socaity.connect(f"{scheme}://127.0.0.1:{foreign_port}", timeout=5, progress=False)
    with pytest.raises(TransportError) as caught:
        service.refresh()
    assert not isinstance(caught.value, TransportTimeout)
    service.close()


def test_an_unresolvable_name_is_a_connect_error() -> None:
    service = socaity.connect("ws://no-such-host.invalid:1", timeout=5, progress=False)
    with pytest.raises((ConnectError, TransportTimeout)):
        service.refresh()
    service.close()


# -- ways to give a transport ----------------------------------------------------------------------------------------


class Counting(HeldTransport):
    opened: ClassVar[list[Target]] = []

    @classmethod
    def open(cls, target: Target) -> Self:
        cls.opened.append(target)
        return cls(DRAW)


def test_a_transport_is_given_as_object_class_or_function() -> None:
    Counting.opened = []
    for transport in (Counting(DRAW), Counting, Counting.open, lambda target: Counting(DRAW)):
        with socaity.connect("any://thing", transport=transport, api_key="key", progress=False) as service:
            assert list(service) == ["draw"]
    assert len(Counting.opened) == 2
    assert Counting.opened[0].all_headers() == {"Authorization": "Bearer key"}
    assert "key" not in repr(Counting.opened[0])


def test_a_fault_of_a_transport_ends_the_jobs_and_hangs_nobody() -> None:
    class Faulty(HeldTransport):
        def start(self, calls: Any) -> None:
            raise LookupError("a bug")

        def attach(self, call: Any) -> None:
            Transport.attach(self, call)

    with socaity.connect("any://thing", transport=Faulty(), retry=1, progress=False) as service:
        with pytest.raises(TransportError, match="LookupError: a bug"):
            service.ask().result(DEADLINE)
        with pytest.raises(TransportError, match="cannot attach"):
            service.job("a" * 32).result(DEADLINE)


def test_a_transport_that_cannot_be_opened_ends_the_jobs() -> None:
    wire = HeldTransport(DRAW)
    opened = []

    def open_wire(target: Target) -> Transport:
        opened.append(target)
        raise ConfigurationError("no such extra")

    service = socaity.connect("any://thing", transport=open_wire, progress=False)
    with pytest.raises(ConfigurationError, match="no such extra"):
        service.refresh()
    with pytest.raises(ConfigurationError, match="no such extra"):
        service.job("a" * 32).result(DEADLINE)
    service.close()
    assert wire.calls == []


# -- a service -------------------------------------------------------------------------------------------------------


def test_connect_returns_at_once_and_endpoints_come_on_first_use() -> None:
    service, _ = held(DRAW)
    assert repr(service) == "<Service held://test (not asked yet)>"
    assert service.draw.name == "draw"
    assert repr(service) == "<Service held://test (1 endpoints)>"
    assert set(dir(service)) >= {"draw", "close", "job"}
    assert list(service) == ["draw"]
    assert "Draw a picture." in service._repr_html_()
    service.close()


def test_an_endpoint_is_born_typed() -> None:
    service, _ = held(DRAW)
    draw = service["draw"]
    assert str(draw.__signature__).startswith("(text: str, steps: int = 4)")
    assert draw.__doc__ == "Draw a picture.\n\nSlowly."
    assert draw.__annotations__ == {"text": str, "steps": int}
    assert repr(draw).startswith("<Endpoint draw(text: str, steps: int = 4)")
    assert draw.submit("a").status == "queued"
    service.close()


def test_an_unknown_endpoint_names_the_nearest() -> None:
    service, _ = held(DRAW)
    with pytest.raises(NotFoundError, match="did you mean 'draw'"):
        service["drow"]
    with pytest.raises(AttributeError, match="known: draw"):
        _ = service.zzz
    assert not hasattr(service, "_private")
    service.close()


def test_refresh_keeps_the_endpoints_that_did_not_change() -> None:
    service, wire = held(DRAW, endpoint("other"))
    draw = service.draw
    wire.description = wire.description.model_copy(update={"endpoints": [DRAW, endpoint("new")]})
    assert list(service.refresh().endpoints) == ["draw", "new"]
    assert service.draw is draw
    service.close()


@pytest.mark.anyio
async def test_a_service_is_awaited_without_blocking_the_loop() -> None:
    asked, answer = threading.Event(), threading.Event()

    class Slow(HeldTransport):
        async def describe(self) -> Any:
            asked.set()
            await asyncio.get_running_loop().run_in_executor(None, answer.wait, DEADLINE)
            return await super().describe()

    ready: list[Any] = []

    async def connect() -> None:
        ready.append(await socaity.connect("any://thing", transport=Slow(DRAW), progress=False))

    with anyio.fail_after(DEADLINE):
        async with anyio.create_task_group() as group:
            group.start_soon(connect)
            assert await anyio.to_thread.run_sync(asked.wait, DEADLINE)  # so this loop goes on meanwhile
            answer.set()
        async with ready[0] as service:
            assert "draw" in service.endpoints


def test_progress_can_be_silenced_by_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for value, shown in (("0", False), ("off", False), ("1", True)):
        monkeypatch.setenv("SOCAITY_PROGRESS", value)
        assert socaity.connect("any://x", transport=HeldTransport()).shows_progress is shown


# -- keys and headers that cannot be sent ------------------------------------------------------------------------------

WIRES = ("http://x", "https://x", "ws://x", "oip+http://x", "oip+grpc://x")


@pytest.mark.parametrize("url", WIRES)
@pytest.mark.parametrize("key", ["k3y-line\n2", "k3y-€", "k3y-schlüssel", "k3y-\x00", b"k3y-bytes"])
def test_a_key_that_no_header_can_carry_is_refused_without_being_told(url: str, key: Any) -> None:
    with pytest.raises(ConfigurationError, match="api_key") as caught:
        socaity.connect(url, api_key=key)
    assert "k3y" not in str(caught.value)


@pytest.mark.parametrize("url", WIRES)
def test_a_header_that_cannot_be_sent_is_named_without_its_value(url: str) -> None:
    with pytest.raises(ConfigurationError, match="'X-Team'") as caught:
        socaity.connect(url, headers={"X-Team": "s3cret\nX-More: s3cret"})
    assert "s3cret" not in str(caught.value)
    with pytest.raises(ConfigurationError, match="no name of a header"):
        socaity.connect(url, headers={"X Team": "a"})


@pytest.mark.parametrize(
    ("given", "sent"),
    [(" k3y\n", {"Authorization": "Bearer k3y"}), ("", {}), (" \n", {}), (None, {})],
)
def test_white_space_around_a_key_is_left_out_and_an_empty_one_is_none(
    given: str | None, sent: dict[str, str]
) -> None:
    opened: list[Target] = []

    def open_wire(target: Target) -> Transport:
        opened.append(target)
        return HeldTransport(DRAW)

    with socaity.connect("any://x", transport=open_wire, api_key=given, progress=False):
        pass
    assert opened[0].all_headers() == sent
    with socaity.connect("any://x", transport=open_wire, headers={"X-Team": " a\n"}, progress=False):
        pass
    assert opened[1].all_headers() == {"X-Team": "a"}
