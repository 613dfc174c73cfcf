"""Streams of tritonclient: decoupled models, errors in between, cancelling, deadlines."""

from __future__ import annotations

import asyncio
import queue
import time
from collections.abc import AsyncIterator
from typing import Any

import numpy as np
import tritonclient.grpc as over_grpc
import tritonclient.grpc.aio as over_grpc_aio
from checks import DEADLINE, Address, Checks, is_same, raised
from triton_list import inputs, is_right, one_input
from tritonclient.utils import InferenceServerException

check = Checks()
PATIENCE = 10.0


def words_of(*, prompt: str, repetition: int = 1, delay: float = 0.0, fail_last: bool = False) -> list[Any]:
    """For the model `words`: one answer with the prompt for each repetition, with a pause before each."""
    return [
        one_input(over_grpc, "PROMPT", np.array([prompt.encode()], np.object_), "BYTES"),
        one_input(over_grpc, "REPETITION", np.array([repetition], np.int64), "INT64"),
        one_input(over_grpc, "DELAY", np.array([delay], np.float64), "FP64"),
        one_input(over_grpc, "FAIL_LAST", np.array([fail_last]), "BOOL"),
    ]


class Stream:
    """What a stream of tritonclient.grpc brings."""

    def __init__(self, client: Any, **how: Any) -> None:
        self._answers: queue.Queue[tuple[Any, Any]] = queue.Queue()
        client.start_stream(lambda result, error: self._answers.put((result, error)), **how)

    def next(self) -> tuple[Any, Any]:
        return self._answers.get(timeout=PATIENCE)

    def text(self) -> str:
        result, error = self.next()
        if error is not None:
            raise error
        return result.as_numpy("TEXT").ravel()[0].decode()

    def is_over(self) -> bool:
        return self._answers.empty()


@check("grpc stream of a decoupled model")
def _(address: Address) -> None:
    with over_grpc.InferenceServerClient(address.grpc) as client:
        stream = Stream(client, stream_timeout=DEADLINE)
        client.async_stream_infer("words", words_of(prompt="one", repetition=3), request_id="first")
        is_same([stream.text() for _ in range(3)], ["one"] * 3, "the answers")
        # the stream goes on, with another request and another model
        client.async_stream_infer("simple", inputs(over_grpc), request_id="second")
        result, error = stream.next()
        assert error is None, error
        is_right(result)
        is_same(result.get_response().id, "second", "the id")
        client.stop_stream()
        assert stream.is_over(), "it brought more"


@check("grpc stream comes piece by piece")
def _(address: Address) -> None:
    with over_grpc.InferenceServerClient(address.grpc) as client:
        stream = Stream(client, stream_timeout=DEADLINE)
        start = time.monotonic()
        client.async_stream_infer("words", words_of(prompt="a", repetition=4, delay=0.5))
        first = [stream.text(), time.monotonic() - start][1]
        rest = [stream.text() for _ in range(3)]
        last = time.monotonic() - start
        is_same(rest, ["a"] * 3, "the rest")
        assert last - first > 1.0, f"all came together, after {first:.2f} and {last:.2f} s"
        client.stop_stream()


@check("grpc stream: empty final response")
def _(address: Address) -> None:
    with over_grpc.InferenceServerClient(address.grpc) as client:
        stream = Stream(client, stream_timeout=DEADLINE)
        client.async_stream_infer(
            "words", words_of(prompt="a", repetition=2), enable_empty_final_response=True
        )
        finals = []
        for _ in range(3):
            result, error = stream.next()
            assert error is None, error
            parameters = result.get_response().parameters
            finals.append(
                "triton_final_response" in parameters and parameters["triton_final_response"].bool_param
            )
        is_same(finals, [False, False, True], "triton_final_response")
        client.stop_stream()
        assert stream.is_over(), "it brought more"


@check("grpc stream: an error ends its request, not the stream")
def _(address: Address) -> None:
    with over_grpc.InferenceServerClient(address.grpc) as client:
        stream = Stream(client, stream_timeout=DEADLINE)
        client.async_stream_infer("no_such_model", inputs(over_grpc))
        result, error = stream.next()
        assert result is None, "an unknown model answered"
        assert "no_such_model" in error.message(), error
        client.async_stream_infer("words", words_of(prompt="a", repetition=2, fail_last=True))
        is_same(stream.text(), "a", "the first answer")
        result, error = stream.next()
        assert result is None, "what fails gave an answer"
        assert error.message(), "the error has no message"
        client.async_stream_infer("simple", inputs(over_grpc))
        result, error = stream.next()
        assert error is None, error
        is_right(result)
        client.stop_stream()


@check("grpc stream: errors as statuses where they are wanted")
def _(address: Address) -> None:
    with over_grpc.InferenceServerClient(address.grpc) as client:
        stream = Stream(client, stream_timeout=DEADLINE, headers={"triton_grpc_error": "true"})
        client.async_stream_infer("no_such_model", inputs(over_grpc))
        result, error = stream.next()
        assert result is None, "an unknown model answered"
        is_same(str(error.status()), "StatusCode.NOT_FOUND", "the status")
        client.stop_stream(cancel_requests=True)


@check("grpc stream cancelled")
def _(address: Address) -> None:
    with over_grpc.InferenceServerClient(address.grpc) as client:
        stream = Stream(client, stream_timeout=DEADLINE)
        client.async_stream_infer("words", words_of(prompt="a", repetition=1000, delay=0.02))
        is_same(stream.text(), "a", "the first answer")
        start = time.monotonic()
        client.stop_stream(cancel_requests=True)
        assert time.monotonic() - start < 5, "cancelling took too long"
        is_right(client.infer("simple", inputs(over_grpc), client_timeout=DEADLINE))


@check("grpc stream timeout")
def _(address: Address) -> None:
    with over_grpc.InferenceServerClient(address.grpc) as client:
        stream = Stream(client, stream_timeout=0.6)
        client.async_stream_infer("words", words_of(prompt="a", repetition=1000, delay=0.05))
        start = time.monotonic()
        error = None
        while error is None:
            _, error = stream.next()
        is_same(str(error.status()), "StatusCode.DEADLINE_EXCEEDED", "the status")
        assert time.monotonic() - start < 5, "it came too late"
        client.stop_stream(cancel_requests=True)


@check("grpc.aio stream")
def _(address: Address) -> None:
    async def requests() -> AsyncIterator[dict[str, Any]]:
        yield {"model_name": "words", "inputs": words_of(prompt="one", repetition=3)}
        yield {"model_name": "words", "inputs": words_of(prompt="two")}

    async def ask() -> None:
        async with over_grpc_aio.InferenceServerClient(address.grpc) as client:
            texts = []
            async for result, error in client.stream_infer(requests(), stream_timeout=DEADLINE):
                assert error is None, error
                texts.append(result.as_numpy("TEXT").ravel()[0])
            is_same(sorted(texts), [b"one"] * 3 + [b"two"], "the answers")

    asyncio.run(ask())


@check("grpc decoupled model is refused outside a stream")
def _(address: Address) -> None:
    with over_grpc.InferenceServerClient(address.grpc) as client:
        # one answer may be sent; several cannot
        given = words_of(prompt="a", repetition=3)
        error = raised(
            InferenceServerException, lambda: client.infer("words", given, client_timeout=DEADLINE)
        )
        assert str(error.status()) in {"StatusCode.INVALID_ARGUMENT", "StatusCode.UNIMPLEMENTED"}, error


if __name__ == "__main__":
    check.main()
