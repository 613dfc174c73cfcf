"""The REST front end behind a real server: large tensors, chunked bodies, and clients that go away."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import numpy as np
import pytest

from socaity_server import SocaityRouter
from socaity_server.frontends import departure
from socaity_server.handlers import (
    DefaultModelHandler,
    InferenceRequest,
    InferenceResponse,
    ResponseOutput,
)
from socaity_server.model_config import ModelConfig
from tests.server.conftest import SOON as DEADLINE
from tests.server.conftest import Gate, open_client
from tests.server.openinference.conftest import (
    LENGTH,
    Gated,
    Identity,
    binary_body,
    raw_of,
    read_answer,
    tensor,
)

pytestmark = pytest.mark.anyio

Array = np.ndarray[Any, Any]
LiveServer = Callable[[SocaityRouter], str]


@pytest.fixture
def router(router: SocaityRouter) -> SocaityRouter:
    @router.add_route("/place", max_batch_size=4)
    def place(x: Array) -> Array:
        return np.array([[x.ctypes.data % 64, x.flags.aligned, x.flags.owndata]])

    return router


def large(count: int) -> tuple[Array, bytes, dict[str, str]]:
    array = np.arange(count, dtype=np.float32).reshape(1, -1)
    body, headers = binary_body(
        [(tensor("INPUT0", array, "FP32", binary=True), raw_of(array))],
        id="odd",
        parameters={"binary_data_output": True},
    )
    return array, body, headers


@pytest.mark.parametrize("count", [10, 20_000, 1_000_001])
@pytest.mark.parametrize("chunked", [False, True])
def test_large_tensors_go_through(
    router: SocaityRouter, live_server: LiveServer, count: int, chunked: bool
) -> None:
    array, body, headers = large(count)

    def pieces() -> Iterator[bytes]:
        for start in range(0, len(body), 100_003):
            yield body[start : start + 100_003]

    with httpx.Client(base_url=live_server(router), timeout=DEADLINE) as client:
        for _ in range(2):  # the connection is good for another one
            answer = client.post(
                "/v2/models/fp32/infer", content=pieces() if chunked else body, headers=headers
            )
            assert read_answer(answer)["OUTPUT0"] == ("FP32", [1, count], raw_of(array))


def test_a_tensor_is_a_view_of_the_body_at_a_good_address(
    router: SocaityRouter, live_server: LiveServer
) -> None:
    array = np.ones((1, 500_000), np.float64)
    places = []
    with httpx.Client(base_url=live_server(router), timeout=DEADLINE) as client:
        for padding in ("", "a", "ab", "abc"):
            body, headers = binary_body(
                [(tensor("x", array, "FP64", binary=True), raw_of(array))], id=padding
            )
            answer = client.post("/v2/models/place/infer", content=body, headers=headers)
            places.append(read_answer(answer)["output"][2])

    assert places == [[0, 1, 0]] * 4


def test_an_odd_place_in_a_small_body_is_no_harm(router: SocaityRouter, live_server: LiveServer) -> None:
    with httpx.Client(base_url=live_server(router), timeout=DEADLINE) as client:
        for padding in ("", "a", "ab", "abc"):
            array = np.array([[1.5, 2.5]])
            body, headers = binary_body(
                [(tensor("x", array, "FP64", binary=True), raw_of(array))], id=padding
            )
            answer = client.post("/v2/models/place/infer", content=body, headers=headers)
            assert read_answer(answer)["output"][2][1] == 1


def test_a_body_that_is_too_large_is_refused_before_it_is_sent(
    router: SocaityRouter, live_server: LiveServer
) -> None:
    host, _, port = live_server(router).removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port)), timeout=DEADLINE) as connection:
        connection.sendall(
            b"POST /v2/models/fp32/infer HTTP/1.1\r\nhost: localhost\r\ncontent-length: 999999999999\r\n\r\n"
        )
        answer = connection.recv(65536)

    assert answer.startswith(b"HTTP/1.1 413")
    assert b"exceeds the maximum allowed input size" in answer


@contextlib.asynccontextmanager
async def asgi_call(
    router: SocaityRouter, path: str, document: Any
) -> AsyncIterator[tuple[asyncio.Task[None], asyncio.Event, list[Any]]]:
    """A request whose client goes away when the event is set, and what was sent to it."""
    gone = asyncio.Event()
    sent: list[Any] = []
    bodies = [{"type": "http.request", "body": json.dumps(document).encode(), "more_body": False}]

    async def receive() -> Any:
        if bodies:
            return bodies.pop()
        await gone.wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "method": "POST",
        "path": path,
        "query_string": b"",
        "headers": [],
        "scheme": "http",
        "server": ("test", 80),
    }
    task = asyncio.create_task(router.app(scope, receive, send))
    try:
        yield task, gone, sent
    finally:
        gone.set()
        await asyncio.wait([task], timeout=DEADLINE)
        await router.dataplane.aclose(0.0)


async def test_a_client_that_goes_away_cancels_what_waits(router: SocaityRouter, gate: Gate) -> None:
    model = Gated(gate)
    router.add_model(model, name="gated", config=ModelConfig(max_batch_size=1))
    await router.dataplane.start()

    def request(number: float) -> dict[str, Any]:
        return {"inputs": [tensor("INPUT0", np.array([[number]]), "FP32")]}

    async with (
        asgi_call(router, "/v2/models/gated/infer", request(0)) as (first, _, _),
        asgi_call(router, "/v2/models/gated/infer", request(1)) as (second, gone, sent),
    ):
        await asyncio.to_thread(gate.wait_entered)
        batcher = router.dataplane.direct_routes()["gated"].batcher
        while not batcher.depth:
            await asyncio.sleep(0)
        gone.set()
        await asyncio.wait_for(second, DEADLINE)
        gate.open()
        await asyncio.wait_for(first, DEADLINE)

    assert model.rows == [0]
    assert sent == []


async def test_a_client_that_goes_away_ends_the_stream(router: SocaityRouter) -> None:
    ended = asyncio.Event()

    @router.add_route("/endless")
    async def endless(start: int) -> AsyncIterator[int]:
        try:
            while True:
                yield start
                await asyncio.sleep(0)
        finally:
            ended.set()

    await router.dataplane.start()
    async with asgi_call(router, "/v2/models/endless/generate_stream", {"start": 1}) as (task, gone, sent):
        while len(sent) < 3:
            await asyncio.sleep(0)
        gone.set()
        await asyncio.wait_for(task, DEADLINE)
        await asyncio.wait_for(ended.wait(), DEADLINE)

    assert sent[0]["status"] == 200
    assert all(message["more_body"] for message in sent[1:])


class CountingPool(ThreadPoolExecutor):
    """Counts what it is given."""

    count = 0

    def submit(self, *args: Any, **options: Any) -> Any:
        self.count += 1
        return super().submit(*args, **options)


@pytest.mark.parametrize(
    ("model", "kind", "form", "elements", "count"),
    [
        ("anything", "FP32", "json", 100, 0),
        ("anything", "FP32", "json", 100_000, 1),
        ("anything", "FP32", "binary", 100_000, 0),
        ("halves", "BF16", "binary", 200_000, 2),
        ("anything", "BYTES", "binary", 1, 0),
        ("anything", "BYTES", "binary", 100_000, 2),
    ],
)
async def test_much_that_is_converted_is_converted_on_a_thread(
    router: SocaityRouter, model: str, kind: str, form: str, elements: int, count: int
) -> None:
    router.add_model(Identity("bfloat16"), name="halves")
    name = "INPUT0" if model == "halves" else "x"
    entry: dict[str, Any] = {"name": name, "shape": [1, elements], "datatype": kind}
    raw = {"FP32": b"\0\0\0\0", "BF16": b"\0\0", "BYTES": b"\1\0\0\0a"}[kind] * elements
    if form == "json":
        body, headers = binary_body([({**entry, "data": [1.5] * elements}, b"")])
        headers.clear()
    else:
        entry["parameters"] = {"binary_data_size": len(raw)}
        body, headers = binary_body([(entry, raw)])
    async with open_client(router) as client:
        await client.get("/v2")
        with CountingPool() as pool:
            asyncio.get_running_loop().set_default_executor(pool)
            answer = await client.post(f"/v2/models/{model}/infer", content=body, headers=headers)

    assert answer.status_code == 200, answer.text
    assert answer.json()["outputs"][0]["shape"] == [1, elements]
    assert pool.count == count


class Handled(DefaultModelHandler):
    """Gives back what it gets, and refuses numbers below zero."""

    def infer(
        self, payload: InferenceRequest, model_name: str, model_version: str | None = None
    ) -> InferenceResponse:
        (one,) = payload.inputs
        if one.data[0] < 0:
            raise ArithmeticError("below zero")
        output = ResponseOutput(name="y", shape=one.shape, datatype=one.datatype, data=one.data)
        return InferenceResponse(model_name=model_name, outputs=[output])


@pytest.mark.parametrize(
    ("path", "document"),
    [
        ("fp32/infer", {"inputs": [{"name": "INPUT0", "shape": [1, 1], "datatype": "FP32", "data": [1]}]}),
        ("fp32/infer", {"inputs": []}),
        ("mean/infer", {"inputs": [{"name": "values", "shape": [1], "datatype": "FP64", "data": [1]}]}),
        ("mean/infer", {"inputs": [{"name": "values", "shape": [0], "datatype": "FP64", "data": []}]}),
        ("numbers/infer", {"inputs": [{"name": "count", "shape": [1], "datatype": "INT64", "data": [2]}]}),
        ("words/generate_stream", {"text": "a b"}),
        ("words/generate_stream", {"text": "a b", "fail_last": True}),
        ("failing/infer", {"inputs": [{"name": "x", "shape": [1], "datatype": "FP32", "data": [1]}]}),
        ("handled/infer", {"inputs": [{"name": "x", "shape": [1], "datatype": "FP32", "data": [1]}]}),
        ("handled/infer", {"inputs": [{"name": "x", "shape": [1], "datatype": "FP32", "data": [-1]}]}),
        ("nothing/infer", {"inputs": [{"name": "x", "shape": [1], "datatype": "FP32", "data": [-1]}]}),
    ],
)
@pytest.mark.parametrize("moment", [departure._MOMENT, 0.0], ids=["short", "long"])
async def test_requests_leave_nothing_for_the_garbage_collector(
    router: SocaityRouter, monkeypatch: pytest.MonkeyPatch, path: str, document: Any, moment: float
) -> None:
    """Long calls are those during which it is looked whether the client is there still."""
    monkeypatch.setattr(departure, "_MOMENT", moment)

    @router.add_route("/failing", max_batch_size=8)
    def failing(x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        raise ArithmeticError("it always fails")

    router.add_handler(Handled(), models="handled")
    router.add_handler(DefaultModelHandler(), models="nothing")

    async def call() -> None:
        bodies = [{"type": "http.request", "body": json.dumps(document).encode(), "more_body": False}]

        async def receive() -> Any:
            return bodies.pop() if bodies else await asyncio.Future()

        async def send(message: Any) -> None:
            pass

        scope = {
            "type": "http",
            "method": "POST",
            "path": f"/v2/models/{path}",
            "query_string": b"",
            "headers": [],
        }
        await router.app(scope, receive, send)

    try:
        for _ in range(5):
            await call()
        gc.collect()
        gc.disable()
        for _ in range(50):
            await call()
        assert gc.collect() < 50
    finally:
        gc.enable()
        await router.dataplane.aclose(0.0)


def test_an_error_leaves_the_connection_usable(router: SocaityRouter, live_server: LiveServer) -> None:
    with httpx.Client(base_url=live_server(router), timeout=DEADLINE) as client:
        for content, headers in ((b"{", {}), (b"{}", {LENGTH: "9"}), (b"", {})):
            assert client.post("/v2/models/fp32/infer", content=content, headers=headers).status_code == 400
        _, body, headers = large(10)
        assert client.post("/v2/models/fp32/infer", content=body, headers=headers).status_code == 200
