"""`OpenInference` without a protocol: callbacks, cancellation, deadlines, priorities, streams."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import numpy as np
import pytest

from socaity.exceptions import APIError, InvalidInputError, JobFailed, NotFoundError, ServerError
from socaity.protocol.openinference.datatypes import TensorError
from socaity.protocol.openinference.messages import InferRequest, InferResponse, RequestedOutput, Tensor
from socaity_server import SocaityRouter
from socaity_server.model_config import BreakerConfig, ModelConfig
from socaity_server.openinference.failures import failure_of
from socaity_server.openinference.service import OpenInference
from tests.server.conftest import Gate
from tests.server.openinference.conftest import Gated, Identity, Simple

pytestmark = pytest.mark.anyio

Array = np.ndarray[Any, Any]


@pytest.fixture
async def service(router: SocaityRouter) -> AsyncIterator[OpenInference]:
    await router.dataplane.start()
    yield router.app.open_inference
    await router.dataplane.aclose(0.0)


def request(model: str, array: Array, name: str = "INPUT0", **more: Any) -> InferRequest:
    kind = {"f4": "FP32", "i8": "INT64", "f8": "FP64"}[array.dtype.str[1:]]
    return InferRequest(model, [Tensor(name, kind, array.shape, array)], **more)


def row(number: float) -> Array:
    return np.array([[number]], np.float32)


def values(response: InferResponse) -> Any:
    """The data of its first output."""
    data = response.outputs[0].data
    assert data is not None
    return data.tolist()


async def gated(router: SocaityRouter, gate: Gate, service: OpenInference) -> tuple[Gated, asyncio.Task[Any]]:
    """A model that runs the row 0, and does not go on before the gate opens."""
    model = Gated(gate)
    router.add_model(model, name="gated", config=ModelConfig(max_batch_size=1))
    first = asyncio.create_task(service.infer(request("gated", row(0))))
    await asyncio.to_thread(gate.wait_entered)
    return model, first


# Calls


async def test_the_callback_comes_later_and_once(service: OpenInference) -> None:
    ended: asyncio.Future[InferResponse] = asyncio.get_running_loop().create_future()
    found: list[tuple[Any, Any]] = []

    def on_done(response: Any, error: BaseException | None) -> None:
        found.append((response, error))
        ended.set_result(response)

    service.submit(request("fp32", row(3), id="x"), on_done)
    assert found == []
    response = await ended

    assert len(found) == 1
    assert (response.id, response.model_version) == ("x", "1")
    assert response.outputs[0].data is not None
    assert response.outputs[0].data.tolist() == [[3.0]]


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        (lambda: request("nobody", row(1)), NotFoundError),
        (lambda: request("fp32", row(1), model_version="7"), NotFoundError),
        (lambda: request("fp32", row(1), name="other"), TensorError),
        (lambda: request("fp32", row(1), outputs=[RequestedOutput("other")]), TensorError),
        (lambda: request("repeat", row(1), name="text"), TensorError),
        (lambda: request("repeat", row(1), name="nothing"), TensorError),
    ],
)
async def test_what_is_wrong_with_a_request_is_raised_at_once(
    service: OpenInference, wrong: Any, error: type[Exception]
) -> None:
    with pytest.raises(error):
        service.submit(wrong(), lambda response, error: None)


async def test_a_cancelled_call_does_not_run(
    router: SocaityRouter, service: OpenInference, gate: Gate
) -> None:
    model, first = await gated(router, gate, service)
    found: list[Any] = []
    call = service.submit(request("gated", row(1)), lambda *outcome: found.append(outcome))
    task = asyncio.create_task(service.infer(request("gated", row(2))))
    await asyncio.sleep(0)

    call.cancel()
    task.cancel()
    last = asyncio.create_task(service.infer(request("gated", row(3))))
    gate.open()
    await asyncio.gather(first, last)

    assert model.rows == [0, 3]
    assert found == []
    assert task.cancelled()


async def test_an_urgent_call_overtakes(router: SocaityRouter, service: OpenInference, gate: Gate) -> None:
    model, first = await gated(router, gate, service)
    calls = [first]
    for number, priority in ((1, 20), (2, 0), (3, 1)):
        wanted = request("gated", row(number), parameters={"priority": priority})
        calls.append(asyncio.create_task(service.infer(wanted)))
        await asyncio.sleep(0)

    gate.open()
    await asyncio.gather(*calls)

    assert model.rows == [0, 3, 2, 1]


async def test_a_timeout_is_in_microseconds(
    router: SocaityRouter, service: OpenInference, gate: Gate
) -> None:
    _, first = await gated(router, gate, service)

    with pytest.raises(ServerError) as error:
        await service.infer(request("gated", row(1), parameters={"timeout": 20_000}))
    gate.open()
    await first

    assert failure_of(error.value).status == 504


async def test_a_function_that_takes_too_long_is_given_up(
    router: SocaityRouter, service: OpenInference
) -> None:
    ended = asyncio.Event()

    @router.add_route("/slow")
    async def slow(x: float) -> float:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()
        return x

    wanted = request("slow", np.array([1.0]), name="x", parameters={"timeout": 1000})
    with pytest.raises(TimeoutError) as error:
        await service.infer(wanted)
    async with asyncio.timeout(5):
        await ended.wait()

    assert failure_of(error.value).status == 504


async def test_cancelling_ends_a_function(router: SocaityRouter, service: OpenInference) -> None:
    began, ended = asyncio.Event(), asyncio.Event()

    @router.add_route("/slow")
    async def slow(x: float) -> float:
        began.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()
        return x

    task = asyncio.create_task(service.infer(request("slow", np.array([1.0]), name="x")))
    await began.wait()
    task.cancel()
    async with asyncio.timeout(5):
        await ended.wait()

    with pytest.raises(asyncio.CancelledError):
        await task


async def test_cancelling_a_queued_function_cancels_its_job(
    router: SocaityRouter, service: OpenInference
) -> None:
    began = asyncio.Event()

    @router.add_route("/slow", queue_size=2)
    async def slow(x: float) -> float:
        began.set()
        await asyncio.Event().wait()
        return x

    task = asyncio.create_task(service.infer(request("slow", np.array([1.0]), name="x"), owner="me"))
    await began.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    (job,) = await router.dataplane.list(owner="me")

    async with asyncio.timeout(5):
        assert (await router.dataplane.wait(job.id, owner="me")).status.value == "cancelled"


async def test_a_full_queue_of_a_function_refuses(router: SocaityRouter, service: OpenInference) -> None:
    began = asyncio.Event()
    release = asyncio.Event()

    @router.add_route("/slow", queue_size=1)
    async def slow(x: float) -> float:
        began.set()
        await release.wait()
        return x

    tasks = [asyncio.create_task(service.infer(request("slow", np.array([1.0]), name="x")))]
    await began.wait()
    tasks.append(asyncio.create_task(service.infer(request("slow", np.array([2.0]), name="x"))))
    while not router.dataplane.backend.depth("slow"):
        await asyncio.sleep(0)

    with pytest.raises(APIError) as error:
        await service.infer(request("slow", np.array([3.0]), name="x"))
    release.set()

    assert failure_of(error.value).status == 503
    assert [values(one) for one in await asyncio.gather(*tasks)] == [[1.0], [2.0]]


async def test_an_open_breaker_is_not_ready(router: SocaityRouter, service: OpenInference) -> None:
    class Failing(Identity):
        def run(self, inputs: Any) -> dict[str, Array]:
            raise RuntimeError("broken")

    breaker = BreakerConfig(minimum_calls=1, recovery_time=60.0)
    router.add_model(Failing("float32"), name="failing", config=ModelConfig(circuit_breaker=breaker))

    with pytest.raises(JobFailed):
        await service.infer(request("failing", row(1)))
    with pytest.raises(ServerError) as error:
        await service.infer(request("failing", row(1)))

    assert failure_of(error.value).status == 503
    assert not service.model_is_ready("failing")
    assert not service.is_ready


# Streams


async def test_a_stream_gives_every_answer_with_the_id(service: OpenInference) -> None:
    wanted = request("numbers", np.array([3]), name="count", id="9")

    answers = [answer async for answer in service.stream(wanted)]

    assert [values(answer) for answer in answers] == [[0], [1], [2]]
    assert {answer.id for answer in answers} == {"9"}


async def test_a_plain_model_streams_once(service: OpenInference) -> None:
    assert len([answer async for answer in service.stream(request("fp32", row(1)))]) == 1
    assert not service.is_decoupled("fp32")
    assert service.is_decoupled("numbers")


@pytest.mark.parametrize("queue_size", [None, 2])
@pytest.mark.parametrize("is_async", [False, True])
async def test_closing_a_stream_ends_the_generator(
    router: SocaityRouter, service: OpenInference, queue_size: int | None, is_async: bool
) -> None:
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()

    if is_async:

        @router.add_route("/endless", queue_size=queue_size)
        async def endless(start: int) -> AsyncIterator[int]:
            try:
                while True:
                    yield start
                    await asyncio.sleep(0)
            finally:
                ended.set()
    else:

        @router.add_route("/endless", queue_size=queue_size)
        def endless_in_thread(start: int) -> Iterator[int]:
            try:
                while True:
                    yield start
            finally:
                loop.call_soon_threadsafe(ended.set)

    stream = service.stream(request("endless", np.array([1]), name="start"))
    assert (await anext(stream)).outputs[0].datatype == "INT64"
    await stream.aclose()

    async with asyncio.timeout(10):
        await ended.wait()


async def test_a_generator_does_not_run_far_ahead(router: SocaityRouter, service: OpenInference) -> None:
    made = 0

    @router.add_route("/many")
    def many(count: int) -> Iterator[int]:
        nonlocal made
        for number in range(count):
            made = number
            yield number

    stream = service.stream(request("many", np.array([100_000]), name="count"))
    await anext(stream)
    for _ in range(1000):
        await asyncio.sleep(0)
    ahead = made
    await stream.aclose()

    assert ahead < 50_000


async def test_a_generator_that_raises_ends_the_stream_with_it(service: OpenInference) -> None:
    text = np.empty(1, object)
    text[0] = b"a b"
    wanted = InferRequest("words", [Tensor("text", "BYTES", (1,), text)], parameters={"fail_last": True})
    found: list[Any] = []

    with pytest.raises(JobFailed, match="no more words"):
        async for answer in service.stream(wanted):
            found.append(values(answer))

    assert found == [[b"a"], [b"b"]]


# What is known


async def test_a_route_that_is_added_later_is_a_model(router: SocaityRouter, service: OpenInference) -> None:
    assert "later" not in service.model_names()

    router.add_model(Simple(), name="later")

    assert "later" in service.model_names()
    assert service.metadata("later")["inputs"][0]["datatype"] == "INT32"


async def test_results_of_every_kind_have_a_form(router: SocaityRouter, service: OpenInference) -> None:
    values: list[Any] = [
        None,
        True,
        7,
        2**63,
        1.5,
        "text",
        b"bytes",
        [1, 2],
        [[1.0, 2.0], [3.0, 4.0]],
        ["a", "b"],
        [],
        [1, "a"],
        [[1], [2, 3]],
        {"a": 1, "b": {"c": 2}},
        np.float32(1),
        np.ones((2, 2), np.float16),
        (np.ones(1), np.zeros(2, np.int8)),
        np.array(["a", "bc"]),
    ]

    @router.add_route("/kinds")
    def kinds(index: int) -> Any:
        return values[index]

    async def outcome(index: int) -> dict[str, tuple[str, tuple[int, ...], Any]]:
        response = await service.infer(request("kinds", np.array([index]), name="index"))
        return {
            one.name: (one.datatype, one.shape, one.data.tolist())
            for one in response.outputs
            if one.data is not None
        }

    assert [await outcome(index) for index in range(len(values))] == [
        {},
        {"output": ("BOOL", (1,), [True])},
        {"output": ("INT64", (1,), [7])},
        {"output": ("UINT64", (1,), [2**63])},
        {"output": ("FP64", (1,), [1.5])},
        {"output": ("BYTES", (1,), [b"text"])},
        {"output": ("BYTES", (1,), [b"bytes"])},
        {"output": ("INT64", (2,), [1, 2])},
        {"output": ("FP64", (2, 2), [[1.0, 2.0], [3.0, 4.0]])},
        {"output": ("BYTES", (2,), [b"a", b"b"])},
        {"output": ("FP64", (0,), [])},
        {"output": ("BYTES", (1,), [b'[1,"a"]'])},
        {"output": ("BYTES", (1,), [b"[[1],[2,3]]"])},
        {"a": ("INT64", (1,), [1]), "b": ("BYTES", (1,), [b'{"c":2}'])},
        {"output": ("FP64", (1,), [1.0])},
        {"output": ("FP16", (2, 2), [[1.0, 1.0], [1.0, 1.0]])},
        {"output_0": ("FP64", (1,), [1.0]), "output_1": ("INT8", (2,), [0, 0])},
        {"output": ("BYTES", (2,), [b"a", b"bc"])},
    ]


async def test_an_output_that_has_no_datatype_is_an_error(
    router: SocaityRouter, service: OpenInference
) -> None:
    @router.add_route("/complex", max_batch_size=2)
    def to_complex(x: Array) -> Array:
        return x.astype(np.complex64)

    with pytest.raises(ServerError, match="complex64"):
        await service.infer(request("complex", row(1), name="x"))


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (TensorError("x"), 400),
        (InvalidInputError("x"), 400),
        (InvalidInputError("x", status=413), 413),
        (NotFoundError("x"), 404),
        (ServerError("x", status=503, retry_after=2.0), 503),
        (JobFailed("x"), 500),
        (JobFailed("x", code="timeout"), 504),
        (TimeoutError(), 504),
        (NotImplementedError(), 501),
    ],
)
def test_every_error_has_a_status(error: Exception, status: int) -> None:
    assert failure_of(error).status == status


def test_the_text_of_a_foreign_error_stays_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    failure = failure_of(RuntimeError("password=secret"))

    assert failure.status == 500
    assert "secret" not in failure.message
    assert "password=secret" in caplog.text
