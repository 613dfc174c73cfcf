"""A service over gRPC on a thread, and a client that is nothing but gRPC and the messages."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import numpy as np
import pytest

from socaity.protocol.openinference.protobuf import SERVICE, messages
from socaity_server import SocaityRouter

SOON = 20.0


class Client:
    """Calls methods by name. `call` gives the answer, `refusal` the error that is expected."""

    def __init__(self, address: str, credentials: grpc.ChannelCredentials | None = None) -> None:
        options = [("grpc.max_receive_message_length", -1), ("grpc.use_local_subchannel_pool", 1)]
        self.channel = (
            grpc.insecure_channel(address, options)
            if credentials is None
            else grpc.secure_channel(address, credentials, options)
        )
        self.messages = messages()
        self._methods = self.messages.methods()

    def call(self, name: str, /, *, timeout: float = SOON, **fields: Any) -> Any:
        """One message out of `fields`, or the one given as `message`; `metadata` and `compression` are those of gRPC."""
        extra = {key: fields.pop(key) for key in ("metadata", "compression") if key in fields}
        message = fields.pop("message", None) or self._methods[name].request(**fields)
        return self.method(name)(message, timeout=timeout, **extra)

    def refusal(self, name: str, /, **fields: Any) -> grpc.RpcError:
        """The error that the call ends with."""
        with pytest.raises(grpc.RpcError) as caught:
            self.call(name, **fields)
        return caught.value

    def method(self, name: str) -> Any:
        """The callable of gRPC."""
        method = self._methods[name]
        make = self.channel.stream_stream if method.streams_requests else self.channel.unary_unary
        return make(
            method.path,
            request_serializer=method.request.SerializeToString,
            response_deserializer=method.response.FromString,
        )

    def raw(self, data: bytes, method: str = "ModelInfer", **options: Any) -> bytes:
        """Bytes that may be no message."""
        found: bytes = self.channel.unary_unary(f"/{SERVICE}/{method}")(data, timeout=SOON, **options)
        return found

    def request(self, model: str, *inputs: tuple[str, str, list[int], bytes], **fields: Any) -> Any:
        """A ModelInferRequest with raw tensors: name, datatype, shape, bytes."""
        message = self.messages.ModelInferRequest(model_name=model, **fields)
        for name, datatype, shape, data in inputs:
            message.inputs.add(name=name, datatype=datatype, shape=shape)
            message.raw_input_contents.append(data)
        return message


@contextlib.contextmanager
def serve_grpc(router: SocaityRouter, *, urls: list[str] | None = None, **options: Any) -> Iterator[str]:
    """The address of gRPC while `router` is served on free ports of this machine; that of HTTP goes into `urls`."""
    ready = threading.Event()

    def on_ready(url: str) -> None:
        if urls is not None:
            urls.append(url)
        ready.set()

    server = router.server(port=0, grpc_port=0, on_ready=on_ready, **options)
    thread = threading.Thread(target=server.run, name="grpc-live-server", daemon=True)
    thread.start()
    try:
        assert ready.wait(SOON), "the server did not start"
        assert router.grpc_address is not None
        yield router.grpc_address
    finally:
        server.should_exit = True
        thread.join(SOON)
        assert not thread.is_alive(), "the server did not stop"


@pytest.fixture
def connect() -> Iterator[Callable[..., Client]]:
    """`connect(router)` serves it until the test ends, and gives a client."""
    with contextlib.ExitStack() as stack:

        def open_client(router: SocaityRouter, **options: Any) -> Client:
            client = Client(stack.enter_context(serve_grpc(router, **options)))
            stack.callback(client.channel.close)
            return client

        yield open_client


def until(is_true: Callable[[], bool]) -> None:
    """Wait for what another thread does; for some seconds at most."""
    end = time.monotonic() + SOON
    while not is_true():
        assert time.monotonic() < end, "it never happened"
        threading.Event().wait(0.005)


class Held:
    """Work that lasts until the test lets it go, or somebody takes it back."""

    def __init__(self) -> None:
        self.begun = threading.Semaphore(0)
        self.ended = threading.Semaphore(0)
        self.go = threading.Event()


def make_router(held: Held | None = None, **options: Any) -> SocaityRouter:
    """Models of every kind that the tests need."""
    router = SocaityRouter(grace=1.0, auth=options.pop("auth", False), **options)

    @router.add_route("/add", max_batch_size=16)
    def add(a: np.ndarray, b: np.ndarray) -> dict[str, np.ndarray]:
        return {"total": a + b, "difference": a - b}

    @router.add_route("/same", max_batch_size=16)
    def same(x: np.ndarray) -> np.ndarray:
        return x

    @router.add_route("/greet")
    def greet(name: str, times: int = 1, loud: bool = False) -> str:
        text = " ".join([f"hello {name}"] * times)
        return text.upper() if loud else text

    @router.add_route("/count")
    def count(start: int, steps: int = 3) -> Iterator[int]:
        yield from range(start, start + steps)

    @router.add_route("/fail")
    def fail(why: str) -> str:
        raise ValueError(why)

    if held is not None:

        @router.add_route("/hold")
        def hold(seconds: float = SOON) -> Iterator[int]:
            held.begun.release()
            end = time.monotonic() + seconds
            try:
                step = 0
                while not held.go.wait(0.01) and time.monotonic() < end:
                    yield step
                    step += 1
            finally:
                held.ended.release()

        @router.add_route("/wait")
        async def wait(text: str) -> str:
            import asyncio

            held.begun.release()
            try:
                await asyncio.sleep(SOON)
            finally:
                held.ended.release()
            return text

    return router


@pytest.fixture(scope="module")
def service() -> Iterator[Client]:
    """One service for tests that change nothing."""
    with serve_grpc(make_router()) as address:
        client = Client(address)
        yield client
        client.channel.close()
