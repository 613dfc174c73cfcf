"""Beginning and end: deadlines, clients that go, ports, draining."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Callable

import grpc
import numpy as np
import pytest

from socaity.exceptions import ConfigurationError
from socaity_server import SocaityRouter
from socaity_server.frontends.grpc.descriptors import descriptors

from .conftest import SOON, Client, Held, make_router, until

TEXT = ("text", "BYTES", [1], struct.pack("<I", 0))


def test_deadline_ends_the_work(connect: Callable[..., Client]) -> None:
    held = Held()
    client = connect(make_router(held))
    refusal = client.refusal("ModelInfer", message=client.request("wait", TEXT), timeout=0.5)
    assert refusal.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert held.ended.acquire(timeout=SOON), "the work runs on"


def test_client_that_cancels_ends_the_work(connect: Callable[..., Client]) -> None:
    held = Held()
    client = connect(make_router(held))
    call = client.method("ModelInfer").future(client.request("wait", TEXT), timeout=SOON)
    assert held.begun.acquire(timeout=SOON)
    call.cancel()
    assert held.ended.acquire(timeout=SOON), "the work runs on"


def test_client_that_hangs_up_ends_the_work(connect: Callable[..., Client]) -> None:
    held = Held()
    client = connect(make_router(held))
    call = client.method("ModelInfer").future(client.request("wait", TEXT), timeout=SOON)
    assert held.begun.acquire(timeout=SOON)
    client.channel.close()
    assert held.ended.acquire(timeout=SOON), "the work runs on"
    assert call.done()


def test_call_that_waits_for_a_batch_is_taken_back(connect: Callable[..., Client]) -> None:
    entered, go = threading.Semaphore(0), threading.Event()
    ran: list[float] = []
    router = SocaityRouter(auth=False, grace=1.0)

    @router.add_route("/one", max_batch_size=1)
    def one(x: np.ndarray) -> np.ndarray:
        ran.append(float(x[0, 0]))
        entered.release()
        assert go.wait(SOON)
        return x

    client = connect(router)

    def request(value: float) -> object:
        return client.request("one", ("x", "FP64", [1, 1], struct.pack("<d", value)))

    first = client.method("ModelInfer").future(request(1), timeout=SOON)
    assert entered.acquire(timeout=SOON)
    refusal = client.refusal("ModelInfer", message=request(2), timeout=0.3)
    assert refusal.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    batcher = router.dataplane.direct_routes()["one"].batcher
    until(lambda: batcher.queued_calls == 0)  # the client's clock may have been quicker than the server's
    last = client.method("ModelInfer").future(request(3), timeout=SOON)
    go.set()
    first.result(SOON)
    last.result(SOON)
    assert ran == [1.0, 3.0]


def test_no_more_calls_are_let_in_than_is_set(
    connect: Callable[..., Client], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOCAITY_GRPC_MAX_CALLS", "1")
    held = Held()
    client = connect(make_router(held))
    call = client.method("ModelInfer").future(client.request("wait", TEXT), timeout=SOON)
    assert held.begun.acquire(timeout=SOON)
    refusal = client.refusal("ModelInfer", message=client.request("wait", TEXT))
    assert refusal.code() is grpc.StatusCode.UNAVAILABLE
    assert dict(refusal.trailing_metadata())["grpc-retry-pushback-ms"] == "1000"
    (answer,) = client.method("ModelStreamInfer")(iter([client.request("wait", TEXT)]), timeout=SOON)
    assert "at once" in answer.error_message
    assert client.call("ServerLive").live
    call.cancel()
    assert held.ended.acquire(timeout=SOON)
    text = client.request("greet", ("name", "BYTES", [1], struct.pack("<I", 0)))
    until(lambda: _is_answered(client, text))


def test_rate_limit_counts_grpc_as_well(
    connect: Callable[..., Client], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MAX_REQUESTS", "2")
    client = connect(make_router())
    request = client.request("same", ("x", "FP32", [1, 1], bytes(4)))
    client.call("ModelInfer", message=request)
    (answer,) = client.method("ModelStreamInfer")(iter([request]), timeout=SOON)
    assert answer.error_message == ""
    refusal = client.refusal("ModelInfer", message=request)
    assert refusal.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert int(dict(refusal.trailing_metadata())["grpc-retry-pushback-ms"]) > 1000
    assert client.call("ServerLive").live


def _is_answered(client: Client, request: object) -> bool:
    """Whether there is a place again: the one that was given back may come a little later than its work has ended."""
    try:
        client.call("ModelInfer", message=request)
    except grpc.RpcError as exc:
        if exc.code() is grpc.StatusCode.UNAVAILABLE:
            return False
        raise
    return True


def test_port_that_is_taken_is_an_error_at_the_start() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(ConfigurationError, match=rf"127\.0\.0\.1:{port}.*--grpc-port"):
            make_router().start(port=0, grpc_port=port)


def test_port_may_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRPC_PORT", "99999")
    with pytest.raises(ConfigurationError, match="GRPC_PORT"):
        make_router().start(port=0)


def test_without_a_port_there_is_no_grpc() -> None:
    router = make_router()
    router.server(port=0)
    assert router.grpc_address is None


def test_calls_that_run_are_answered_while_the_server_stops() -> None:
    held = Held()
    router = SocaityRouter(auth=False, grace=SOON)

    @router.add_route("/last")
    def last(text: str) -> str:
        held.begun.release()
        assert held.go.wait(SOON)
        return text

    ready = threading.Event()
    server = router.server(port=0, grpc_port=0, on_ready=lambda url: ready.set())
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    assert ready.wait(SOON)
    client = Client(str(router.grpc_address))
    check = descriptors()["grpc.health.v1.HealthCheckRequest"]
    watch = client.channel.unary_stream(
        "/grpc.health.v1.Health/Watch",
        request_serializer=check.SerializeToString,
        response_deserializer=descriptors()["grpc.health.v1.HealthCheckResponse"].FromString,
    )(check(), timeout=SOON)
    assert next(watch).status == 1
    running = client.method("ModelInfer").future(client.request("last", TEXT), timeout=SOON)
    assert held.begun.acquire(timeout=SOON)
    server.should_exit = True
    # those who watch hear of it before anything else happens
    assert next(watch).status == 2
    assert list(watch) == []
    while not router.dataplane.is_closing:
        assert not client.call("ServerReady").ready
    refusal = client.refusal("ModelInfer", message=client.request("last", TEXT))
    assert refusal.code() is grpc.StatusCode.UNAVAILABLE
    assert int(dict(refusal.trailing_metadata())["grpc-retry-pushback-ms"]) > 0
    held.go.set()
    assert list(running.result(SOON).raw_output_contents) == [struct.pack("<I", 0)]
    thread.join(SOON)
    assert not thread.is_alive()
    client.channel.close()


def test_open_streams_do_not_keep_the_server_from_stopping() -> None:
    held = Held()
    router = make_router(held)
    ready = threading.Event()
    server = router.server(port=0, grpc_port=0, on_ready=lambda url: ready.set())
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    assert ready.wait(SOON)
    client = Client(str(router.grpc_address))
    never = threading.Event()
    call = client.method("ModelStreamInfer")(iter(lambda: never.wait(SOON), True), timeout=SOON)
    running = client.method("ModelInfer").future(client.request("wait", TEXT), timeout=SOON)
    assert held.begun.acquire(timeout=SOON)
    server.should_exit = True
    thread.join(SOON)
    assert not thread.is_alive()
    assert held.ended.acquire(timeout=SOON)
    never.set()
    assert running.exception(SOON) is not None
    call.cancel()
    client.channel.close()
