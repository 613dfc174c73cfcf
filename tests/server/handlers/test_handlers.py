"""Models as classes: what handlers get, what is checked, what is said when nothing is written, over REST and the service."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import httpx
import numpy as np
import pytest

from socaity.exceptions import ConfigurationError
from socaity.protocol.openinference.datatypes import TensorError
from socaity_server import SocaityRouter
from socaity_server.handlers import (
    Datatype,
    DefaultModelHandler,
    InferenceRequest,
    InferenceResponse,
    InputCodec,
    MetadataTensor,
    ModelHandler,
    ModelMetadataResponse,
    ModelReadyResponse,
    Parameters,
    RequestCodec,
    RequestInput,
    ResponseOutput,
    ServerLiveResponse,
    ServerMetadataResponse,
    ServerReadyResponse,
    TensorData,
    codecs,
    register_input_codec,
    register_request_codec,
)
from tests.server.conftest import Gate, open_client
from tests.server.openinference.conftest import LENGTH, binary_body, raw_of, read_answer, refused, tensor

pytestmark = pytest.mark.anyio
Array = np.ndarray[Any, Any]

INFER = "/v2/models/{}/infer"


class Keeper(DefaultModelHandler):
    """Keeps what it is asked."""

    def __init__(self) -> None:
        self.found: list[Any] = []

    def infer(
        self, payload: InferenceRequest, model_name: str, model_version: str | None = None
    ) -> InferenceResponse:
        self.found += [one.data.root for one in payload.inputs]
        return InferenceResponse(model_name=model_name, outputs=[])

    def model_load(self, model_name: str) -> bool:
        return True


@pytest.mark.parametrize(
    ("kind", "shape", "data"),
    [
        ("INT64", [2, 2], [[1, 2], [3, 4]]),
        ("INT64", [2, 2], [1, 2, 3, 4]),
        ("FP32", [2, 1, 2], [[[1.0, 2.0]], [[3.0, 4.0]]]),
        ("FP32", [1, 2], [1.5, 2.5]),
        ("INT32", [2, 1], [[7], [8]]),
        ("BOOL", [1, 2], [[True, False]]),
        ("BYTES", [2, 2], [["a", "ü"], ["", "d"]]),
        ("INT64", [2, 0], [[], []]),
        ("INT64", [0], []),
    ],
)
async def test_data_is_nested_as_it_was_sent(
    router: SocaityRouter, kind: str, shape: list[int], data: Any
) -> None:
    keeper = Keeper()
    router.add_handler(keeper, models=["keep"])
    one = {"name": "x", "shape": shape, "datatype": kind, "data": data}
    async with open_client(router) as client:
        answer = await client.post(INFER.format("keep"), json={"inputs": [one]})
    assert answer.status_code == 200, answer.text
    assert keeper.found == [data]


async def test_raw_data_is_flat(router: SocaityRouter) -> None:
    keeper = Keeper()
    router.add_handler(keeper, models=["keep"])
    data = np.array([[1, 2], [3, 4]]).tobytes()
    one = {"name": "x", "shape": [2, 2], "datatype": "INT64", "parameters": {"binary_data_size": len(data)}}
    body, headers = binary_body([(one, data)])
    async with open_client(router) as client:
        answer = await client.post(INFER.format("keep"), content=body, headers=headers)
    assert answer.status_code == 200, answer.text
    assert keeper.found == [[1, 2, 3, 4]]


def test_types_of_the_server_are_there() -> None:
    assert ServerLiveResponse(live=True).model_dump() == {"live": True}
    assert ServerReadyResponse(live=False).model_dump() == {"live": False}
    metadata = ServerMetadataResponse(name="mine", version="1", extensions=["x"])
    assert metadata.model_dump() == {"name": "mine", "version": "1", "extensions": ["x"]}


class Doubler(ModelHandler):
    """Doubles FP32 rows of two; its answers can be made wrong."""

    def __init__(self) -> None:
        self.loads: list[str] = []
        self.requests: list[InferenceRequest] = []
        self.versions: list[str | None] = []
        self.threads: list[str] = []
        self.is_ready = True
        self.answer: Any = None

    def infer(
        self, payload: InferenceRequest, model_name: str, model_version: str | None = None
    ) -> InferenceResponse:
        self.requests.append(payload)
        self.versions.append(model_version)
        self.threads.append(threading.current_thread().name)
        one = payload.inputs[0]
        output = self.answer or ResponseOutput(
            name="y",
            shape=one.shape,
            datatype=one.datatype,
            data=TensorData([2 * value for value in one.data]),
        )
        return InferenceResponse(model_name=model_name, outputs=[output])

    def model_metadata(self, model_name: str, model_version: str | None = None) -> ModelMetadataResponse:
        return ModelMetadataResponse(
            name=model_name,
            versions=["1", "2"],
            platform="mine",
            inputs=[MetadataTensor(name="x", datatype=Datatype.FP32, shape=[-1, 2])],
            outputs=[MetadataTensor(name="y", datatype=Datatype.FP32, shape=[-1, 2])],
        )

    def model_load(self, model_name: str) -> bool:
        self.loads.append(model_name)
        return True

    def model_ready(self, model_name: str, model_version: str | None = None) -> ModelReadyResponse:
        return ModelReadyResponse(name=model_name, ready=self.is_ready)


class Echo(DefaultModelHandler):
    """Gives back what it gets, with or without parameters; has no metadata."""

    def infer(
        self, payload: InferenceRequest, model_name: str, model_version: str | None = None
    ) -> InferenceResponse:
        return InferenceResponse(
            model_name=model_name,
            outputs=[
                ResponseOutput(
                    name=one.name,
                    shape=one.shape,
                    datatype=one.datatype,
                    parameters=one.parameters,
                    data=one.data,
                )
                for one in payload.inputs
            ],
        )


@pytest.fixture
def doubler() -> Doubler:
    return Doubler()


@pytest.fixture
def router(router: SocaityRouter, doubler: Doubler) -> SocaityRouter:
    router.add_handler(doubler, models=["double", "org/double"])
    router.add_handler(Echo(), models="echo")
    router.add_handler(DefaultModelHandler(), models=["nothing"])
    return router


X = tensor("x", np.array([[1, 2], [3, 4]]), "FP32")


# What a handler gets and gives


async def test_a_handler_answers(client: httpx.AsyncClient, doubler: Doubler) -> None:
    answer = await client.post(
        INFER.format("double"), json={"id": "7", "inputs": [X], "parameters": {"a": 1}}
    )

    assert answer.json() == {
        "model_name": "double",
        "model_version": "2",
        "id": "7",
        "outputs": [{"name": "y", "shape": [2, 2], "datatype": "FP32", "data": [2.0, 4.0, 6.0, 8.0]}],
    }
    (request,) = doubler.requests
    assert request.id == "7"
    assert request.parameters is not None
    assert request.parameters.model_dump()["a"] == 1
    (one,) = request.inputs
    assert (one.name, one.shape, one.datatype, one.data.root) == ("x", [2, 2], "FP32", [1.0, 2.0, 3.0, 4.0])
    assert (len(one.data), one.data[1], list(one.data)) == (4, 2.0, [1.0, 2.0, 3.0, 4.0])
    assert one.as_numpy().dtype == np.float32


async def test_a_handler_does_not_run_on_the_event_loop(client: httpx.AsyncClient, doubler: Doubler) -> None:
    await client.post(INFER.format("double"), json={"inputs": [X]})

    assert doubler.threads == ["socaity-double"]


async def test_binary_tensors_reach_a_handler(client: httpx.AsyncClient) -> None:
    array = np.array([[1.5, 2.5]], np.float32)
    body, headers = binary_body(
        [(tensor("x", array, "FP32", binary=True), raw_of(array))], parameters={"binary_data_output": True}
    )

    answer = await client.post(INFER.format("double"), content=body, headers=headers)
    raw = await client.post(INFER.format("echo"), content=raw_of(array), headers={LENGTH: "0"})

    assert read_answer(answer)["y"] == ("FP32", [1, 2], raw_of(2 * array))
    refused(raw, 400, "metadata")


async def test_a_large_tensor_becomes_no_list_that_nobody_asks_for(router: SocaityRouter) -> None:
    kept: list[InferenceRequest] = []

    class Sum(Echo):
        def infer(
            self, payload: InferenceRequest, model_name: str, model_version: str | None = None
        ) -> InferenceResponse:
            kept.append(payload)
            output = ResponseOutput(
                name="sum",
                shape=[1],
                datatype=Datatype.FP32,
                data=TensorData([float(payload.inputs[0].as_numpy().sum())]),
            )
            return InferenceResponse(model_name=model_name, outputs=[output])

    router.add_handler(Sum(), models="sum")
    numbers = np.ones(4, np.float32)
    body, headers = binary_body([(tensor("x", numbers, "FP32", binary=True), raw_of(numbers))])
    async with open_client(router) as client:
        answer = await client.post(INFER.format("sum"), content=body, headers=headers)

    assert read_answer(answer) == {"sum": ("FP32", [1], [4.0])}
    (data,) = [one.data for one in kept[0].inputs]
    assert "root" not in vars(data)
    assert kept[0].model_dump()["inputs"][0]["data"] == [1.0, 1.0, 1.0, 1.0]
    assert data.root == [1.0, 1.0, 1.0, 1.0]
    with pytest.raises(AttributeError, match="nonsense"):
        _ = data.nonsense  # type: ignore[attr-defined]


async def test_codecs_and_checks_do_not_run_on_the_event_loop(client: httpx.AsyncClient) -> None:
    threads: list[threading.Thread] = []

    @register_input_codec
    class Noting(InputCodec):
        ContentType = "noting"

        @classmethod
        def can_encode(cls, payload: Any) -> bool:
            return False

        @classmethod
        def decode_input(cls, request_input: RequestInput) -> Any:
            threads.append(threading.current_thread())

        @classmethod
        def encode_output(cls, name: str, payload: Any) -> ResponseOutput:
            raise AssertionError

    try:
        answer = await client.post(
            INFER.format("double"), json={"inputs": [{**X, "parameters": {"content_type": "noting"}}]}
        )
    finally:
        del codecs._inputs["noting"]

    assert answer.status_code == 200
    assert len(threads) == 1
    assert threading.main_thread() not in threads


async def test_a_version_is_passed_on(client: httpx.AsyncClient, doubler: Doubler) -> None:
    named = await client.post("/v2/models/double/versions/1/infer", json={"inputs": [X]})
    unknown = await client.post("/v2/models/double/versions/3/infer", json={"inputs": [X]})

    assert named.json()["model_version"] == "1"
    assert doubler.versions == ["1"]
    refused(unknown, 404, "'3'")


async def test_a_name_may_have_a_slash(client: httpx.AsyncClient) -> None:
    for path in ("/v2/models/org/double/infer", "/v2/models/org%2Fdouble/infer"):
        answer = await client.post(path, json={"inputs": [X]})
        assert answer.json()["model_name"] == "org/double"
    assert (await client.get("/v2/models/org%2Fdouble/versions/2/ready")).status_code == 200


async def test_metadata_and_configuration_are_those_of_the_handler(client: httpx.AsyncClient) -> None:
    metadata = (await client.get("/v2/models/double")).json()
    config = (await client.get("/v2/models/double/config")).json()

    assert metadata == {
        "name": "double",
        "versions": ["1", "2"],
        "platform": "mine",
        "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 2]}],
        "outputs": [{"name": "y", "datatype": "FP32", "shape": [-1, 2]}],
    }
    assert (config["max_batch_size"], config["input"][0]["dims"]) == (0, [-1, 2])


async def test_handlers_are_listed_counted_and_ready(client: httpx.AsyncClient, doubler: Doubler) -> None:
    await client.post(INFER.format("double"), json={"inputs": [X]})

    assert {"double", "echo", "nothing"} <= set((await client.get("/v2/models")).json()["models"])
    (statistics,) = (await client.get("/v2/models/double/stats")).json()["model_stats"]
    assert statistics["inference_stats"]["success"]["count"] == 1
    doubler.is_ready = False
    assert (await client.get("/v2/models/double/ready")).json() == {"name": "double", "ready": False}
    assert (await client.get("/v2/health/ready")).status_code == 503


async def test_a_handler_that_cannot_say_whether_it_is_ready_is_not(
    client: httpx.AsyncClient,
    doubler: Doubler,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def broken(model_name: str, model_version: str | None = None) -> ModelReadyResponse:
        raise RuntimeError("no connection")

    monkeypatch.setattr(doubler, "model_ready", broken)

    answer = await client.get("/v2/models/double/ready")
    assert (answer.status_code, answer.json()) == (503, {"name": "double", "ready": False})
    answer = await client.get("/v2/health/ready")
    assert (answer.status_code, answer.json()) == (503, {"live": True, "ready": False})
    assert (await client.get("/v2/models/echo/ready")).status_code == 200
    assert "no connection" in caplog.text


async def test_a_handler_loads_when_it_is_asked_to(client: httpx.AsyncClient, doubler: Doubler) -> None:
    await client.post("/v2/repository/models/double/unload")
    gone = await client.post(INFER.format("double"), json={"inputs": [X]})
    states = {one["name"]: one["state"] for one in (await client.post("/v2/repository/index")).json()}
    loaded = await client.post("/v2/repository/models/double/load")
    back = await client.post(INFER.format("double"), json={"inputs": [X]})

    refused(gone, 404, "not loaded")
    assert (states["double"], states["echo"]) == ("UNAVAILABLE", "READY")
    assert loaded.json() == {"name": "double", "load": True}
    assert back.status_code == 200
    assert doubler.loads == ["double", "org/double", "double"]


async def test_an_async_handler_is_awaited(router: SocaityRouter) -> None:
    class Later(Echo):
        async def infer(self, payload: Any, model_name: str, model_version: str | None = None) -> Any:  # type: ignore[override]
            await asyncio.sleep(0)
            return super().infer(payload, model_name, model_version)

    router.add_handler(Later(), models="later")
    async with open_client(router) as client:
        answer = await client.post(INFER.format("later"), json={"inputs": [X]})

    assert read_answer(answer)["x"][2] == [1, 2, 3, 4]


@pytest.mark.parametrize("concurrency", [1, 2])
async def test_so_many_calls_of_an_async_handler_run_at_once(router: SocaityRouter, concurrency: int) -> None:
    running: list[int] = []
    most = 0

    class Counting(Echo):
        async def infer(  # type: ignore[override]
            self, payload: InferenceRequest, model_name: str, model_version: str | None = None
        ) -> InferenceResponse:
            nonlocal most
            running.append(1)
            most = max(most, len(running))
            for _ in range(10):
                await asyncio.sleep(0)
            running.pop()
            return super().infer(payload, model_name)

    router.add_handler(Counting(), models="counting", concurrency=concurrency)
    async with open_client(router) as client:
        calls = [client.post(INFER.format("counting"), json={"inputs": [X]}) for _ in range(6)]
        answers = await asyncio.gather(*calls)

    assert [one.status_code for one in answers] == [200] * 6
    assert most == concurrency


@pytest.mark.parametrize("is_cancelled", [False, True])
async def test_calls_beyond_the_queue_are_refused(router: SocaityRouter, is_cancelled: bool) -> None:
    gate = asyncio.Event()

    class Held(Echo):
        async def infer(  # type: ignore[override]
            self, payload: InferenceRequest, model_name: str, model_version: str | None = None
        ) -> InferenceResponse:
            await gate.wait()
            return super().infer(payload, model_name)

    router.add_handler(Held(), models="held", concurrency=1, queue_size=2)
    async with open_client(router) as client:

        def ask() -> asyncio.Task[httpx.Response]:
            return asyncio.create_task(client.post(INFER.format("held"), json={"inputs": [X]}))

        calls = [ask() for _ in range(4)]
        done, waiting = await asyncio.wait(calls, return_when=asyncio.FIRST_COMPLETED, timeout=10)
        (refusal,) = done
        refused(refusal.result(), 503, "full")
        assert refusal.result().headers["retry-after"] == "1"
        if is_cancelled:
            for call in waiting:
                call.cancel()
            await asyncio.wait(waiting)
        gate.set()
        answers = [await call for call in waiting if not is_cancelled] + [await ask()]

    assert {one.status_code for one in answers} == {200}


async def test_a_call_that_takes_too_long_fails(router: SocaityRouter, gate: Gate) -> None:
    class Slow(Echo):
        def infer(self, payload: Any, model_name: str, model_version: str | None = None) -> Any:
            gate()
            return super().infer(payload, model_name, model_version)

    router.add_handler(Slow(), models="slow", timeout=0.05)
    async with open_client(router) as client:
        slow = await client.post(INFER.format("slow"), json={"inputs": [X]})

    refused(slow, 504)


# Nothing is written


async def test_what_is_not_written_is_501(client: httpx.AsyncClient) -> None:
    refused(await client.post(INFER.format("nothing"), json={"inputs": [X]}), 501, "infer")
    refused(await client.get("/v2/models/nothing"), 501, "model_metadata")
    refused(await client.get("/v2/models/nothing/config"), 501)
    assert (await client.get("/v2/models/nothing/ready")).json() == {"name": "nothing", "ready": True}
    assert (await client.get("/v2/health/live")).status_code == 200


async def test_an_unknown_model_is_not_that_of_a_handler(client: httpx.AsyncClient) -> None:
    refused(await client.get("/v2/models/other/ready"), 404)
    refused(await client.post(INFER.format("other"), json={"inputs": [X]}), 404)


# Requests are checked


@pytest.mark.parametrize(
    ("entry", "texts"),
    [
        ({**X, "shape": [4]}, ["'x'", "[-1,2]", "[4]"]),
        ({**X, "datatype": "FP64"}, ["'x'", "'FP64'", "'FP32'"]),
        ({**X, "name": "z"}, ["'z'"]),
    ],
)
async def test_a_request_that_does_not_fit_says_so(
    client: httpx.AsyncClient, doubler: Doubler, entry: dict[str, Any], texts: list[str]
) -> None:
    refused(
        await client.post(INFER.format("double"), json={"inputs": [entry]}), 400, "InferenceRequest", *texts
    )
    assert doubler.requests == []


async def test_whole_numbers_and_empty_tensors_are_fine(client: httpx.AsyncClient) -> None:
    whole = {"name": "a", "shape": [4], "datatype": "FP32", "data": [1, 2, 3, 4]}
    empty = {"name": "b", "shape": [0], "datatype": "FP32", "data": []}
    deep = {"name": "c", "shape": [1, 1, 2, 1], "datatype": "INT8", "data": [[[[1], [2]]]]}

    found = read_answer(await client.post(INFER.format("echo"), json={"inputs": [whole, empty, deep]}))

    assert found == {
        "a": ("FP32", [4], [1, 2, 3, 4]),
        "b": ("FP32", [0], []),
        "c": ("INT8", [1, 1, 2, 1], [1, 2]),
    }


@pytest.mark.parametrize("kind", [one.value for one in Datatype])
async def test_every_datatype_goes_through_a_handler(client: httpx.AsyncClient, kind: str) -> None:
    raw = {"BYTES": b"\x02\x00\x00\x00\xff\x00\x00\x00\x00\x00", "BOOL": b"\x01\x00"}.get(
        kind, b"\x01\x02" * 8
    )
    size = {
        "UINT8": 16,
        "INT8": 16,
        "UINT16": 8,
        "INT16": 8,
        "FP16": 8,
        "BF16": 8,
        "BYTES": 2,
        "BOOL": 2,
    }.get(kind, 2 if kind.endswith("64") else 4)
    entry = {"name": "a", "shape": [size], "datatype": kind, "parameters": {"binary_data_size": len(raw)}}
    body, headers = binary_body([(entry, raw)], parameters={"binary_data_output": True})

    answer = await client.post(INFER.format("echo"), content=body, headers=headers)

    assert read_answer(answer)["a"] == (kind, [size], raw)


# Answers are checked


@pytest.mark.parametrize(
    ("output", "texts"),
    [
        (
            ResponseOutput(name="y", shape=[2, 2], datatype=Datatype.FP32, data=TensorData([1, 2])),
            ["'y'", "[2, 2]", "2"],
        ),
        (
            ResponseOutput(name="y", shape=[1, 1], datatype=Datatype.FP32, data=TensorData(["a"])),
            ["'y'", "FP32", "'a'"],
        ),
        (
            ResponseOutput(name="y", shape=[1, 2], datatype=Datatype.FP64, data=TensorData([1, 2])),
            ["'y'", "FP32", "FP64"],
        ),
        (
            ResponseOutput(name="y", shape=[2], datatype=Datatype.FP32, data=TensorData([1, 2])),
            ["'y'", "[-1, 2]", "[2]"],
        ),
        (
            ResponseOutput(name="z", shape=[1, 2], datatype=Datatype.FP32, data=TensorData([1, 2])),
            ["'z'", "y"],
        ),
        (
            ResponseOutput(name="y", shape=[1, 2], datatype=Datatype.FP32, data=TensorData(np.ones((1, 2)))),
            ["'y'", "float64"],
        ),
        (
            ResponseOutput(
                name="y", shape=[1, 2], datatype=Datatype.FP32, data=TensorData(np.ones((2, 1), np.float32))
            ),
            ["'y'", "[1, 2]", "[2, 1]"],
        ),
    ],
)
async def test_an_answer_that_is_not_what_it_declares_is_an_error(
    client: httpx.AsyncClient, doubler: Doubler, output: ResponseOutput, texts: list[str]
) -> None:
    doubler.answer = output

    refused(await client.post(INFER.format("double"), json={"inputs": [X]}), 500, "InferenceResponse", *texts)


@pytest.mark.parametrize("data", [[[1, 2]], [1, 2], np.array([[1, 2]], np.float32), (1, 2)])
async def test_an_answer_may_be_nested_flat_or_an_array(
    client: httpx.AsyncClient, doubler: Doubler, data: Any
) -> None:
    doubler.answer = ResponseOutput(name="y", shape=[1, 2], datatype=Datatype.FP32, data=TensorData(data))

    assert read_answer(await client.post(INFER.format("double"), json={"inputs": [X]}))["y"][2] == [1, 2]


async def test_an_answer_has_each_output_once(client: httpx.AsyncClient, router: SocaityRouter) -> None:
    class Twice(Echo):
        def infer(
            self, payload: InferenceRequest, model_name: str, model_version: str | None = None
        ) -> InferenceResponse:
            answer = super().infer(payload, model_name)
            return InferenceResponse(model_name=model_name, outputs=answer.outputs * 2)

    router.add_handler(Twice(), models="twice")

    answer = await client.post(INFER.format("twice"), json={"inputs": [X]})

    assert answer.status_code == 500
    assert "output ('x'): there is another of this name" in answer.json()["error"]


async def test_what_is_no_answer_is_an_error(client: httpx.AsyncClient, router: SocaityRouter) -> None:
    class Wrong(Echo):
        def infer(self, payload: Any, model_name: str, model_version: str | None = None) -> Any:
            if payload.inputs[0].data[0] == 1:
                raise LookupError("no such row")
            return {"outputs": 7}

    router.add_handler(Wrong(), models="wrong")

    refused(await client.post(INFER.format("wrong"), json={"inputs": [X]}), 500, "LookupError: no such row")
    two = tensor("x", np.array([2]), "FP32")
    refused(await client.post(INFER.format("wrong"), json={"inputs": [two]}), 500, "wrong answer")


async def test_requested_outputs_are_chosen(client: httpx.AsyncClient) -> None:
    body = {"inputs": [X, {**X, "name": "b"}], "outputs": [{"name": "b"}]}
    unknown = {"inputs": [X], "outputs": [{"name": "q"}]}

    assert list(read_answer(await client.post(INFER.format("echo"), json=body))) == ["b"]
    refused(await client.post(INFER.format("echo"), json=unknown), 400, "'q'")
    refused(await client.post(INFER.format("double"), json=unknown), 400, "'q'")


async def test_all_parameters_of_a_tensor_are_kept(client: httpx.AsyncClient) -> None:
    parameters = {"unit": "m", "scale": 2.5, "flag": True}

    answer = await client.post(INFER.format("echo"), json={"inputs": [{**X, "parameters": parameters}]})

    assert answer.json()["outputs"][0]["parameters"] == parameters


# Content types


class Decoded(Echo):
    """Keeps what the codecs made of a request."""

    def __init__(self) -> None:
        self.found: list[Any] = []
        self.answer: Any = None

    def infer(
        self, payload: InferenceRequest, model_name: str, model_version: str | None = None
    ) -> InferenceResponse:
        self.found.append(None if payload.parameters is None else payload.parameters.decoded_payload)
        self.found += [
            None if one.parameters is None else one.parameters.decoded_payload for one in payload.inputs
        ]
        if self.answer is not None:
            return InferenceResponse(model_name=model_name, outputs=[self.answer])
        return super().infer(payload, model_name, model_version)


@pytest.fixture
async def decoded(router: SocaityRouter) -> Decoded:
    handler = Decoded()
    router.add_handler(handler, models="decoded")
    return handler


async def test_numpy_decodes_to_an_array_and_changes_nothing(
    client: httpx.AsyncClient, decoded: Decoded
) -> None:
    entry = {
        "name": "a",
        "shape": [4],
        "datatype": "FP32",
        "data": [1, 2, 3, 4],
        "parameters": {"content_type": "numpy"},
    }

    found = read_answer(await client.post(INFER.format("decoded"), json={"inputs": [entry]}))

    assert decoded.found[1].dtype == np.float32
    assert decoded.found[1].tolist() == [1, 2, 3, 4]
    assert found["a"] == ("FP32", [4], [1, 2, 3, 4])


async def test_text_decodes_to_a_list(client: httpx.AsyncClient, decoded: Decoded) -> None:
    entry = {"name": "a", "shape": [2], "datatype": "BYTES", "data": ["ü", ""]}
    body = {"inputs": [entry], "parameters": {"content_type": "str"}}

    found = read_answer(await client.post(INFER.format("decoded"), json=body))

    assert decoded.found[1] == ["ü", ""]
    assert found["a"] == ("BYTES", [2], ["ü", ""])


@pytest.mark.parametrize("place", ["request", "input", "output"])
async def test_an_unknown_content_type_is_refused(
    client: httpx.AsyncClient, decoded: Decoded, place: str
) -> None:
    tag = {"parameters": {"content_type": "parquet"}}
    body: dict[str, Any] = {"inputs": [{**X, **(tag if place == "input" else {})}]}
    if place == "request":
        body |= tag
    if place == "output":
        body["outputs"] = [{"name": "x", **tag}]

    refused(await client.post(INFER.format("decoded"), json=body), 400, "'parquet'", "numpy, str")
    assert decoded.found == []


async def test_text_is_no_content_type_of_numbers(client: httpx.AsyncClient, decoded: Decoded) -> None:
    entry = {**X, "parameters": {"content_type": "str"}}

    refused(await client.post(INFER.format("decoded"), json={"inputs": [entry]}), 400, "BYTES")


@pytest.fixture
def own_codecs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(codecs, "_inputs", dict(codecs._inputs))
    monkeypatch.setattr(codecs, "_requests", dict(codecs._requests))

    @register_input_codec
    class Total(InputCodec):
        ContentType = "total"

        @classmethod
        def can_encode(cls, payload: Any) -> bool:
            return isinstance(payload, int | float)

        @classmethod
        def decode_input(cls, request_input: RequestInput) -> Any:
            return sum(request_input.data)

        @classmethod
        def encode_output(cls, name: str, payload: Any) -> ResponseOutput:
            return ResponseOutput(name=name, shape=[1], datatype=Datatype.FP32, data=TensorData([payload]))

    @register_request_codec
    class Names(RequestCodec):
        ContentType = "names"

        @classmethod
        def decode_request(cls, request: InferenceRequest) -> Any:
            return [one.name for one in request.inputs]


@pytest.mark.usefixtures("own_codecs")
async def test_codecs_can_be_added(client: httpx.AsyncClient, decoded: Decoded) -> None:
    decoded.answer = ResponseOutput(
        name="t",
        shape=[1],
        datatype=Datatype.FP32,
        parameters=Parameters(content_type="total"),
        data=TensorData(7.5),
    )
    body = {
        "inputs": [{**X, "parameters": {"content_type": "total"}}],
        "parameters": {"content_type": "names"},
    }

    found = read_answer(await client.post(INFER.format("decoded"), json=body))

    assert decoded.found == [["x"], 10.0]
    assert found["t"] == ("FP32", [1], [7.5])


@pytest.mark.usefixtures("own_codecs")
def test_a_content_type_has_one_codec() -> None:
    class Other(InputCodec):
        ContentType = "numpy"

    with pytest.raises(ConfigurationError, match="numpy"):
        register_input_codec(Other)
    with pytest.raises(ConfigurationError, match="RequestCodec"):
        register_request_codec(Other)  # type: ignore[type-var]


# What cannot be added


@pytest.mark.parametrize("models", [[], "", ["a", ""], ["/a"], [1]])
def test_a_handler_names_its_models(router: SocaityRouter, models: Any) -> None:
    with pytest.raises(ConfigurationError, match="models="):
        router.add_handler(Echo(), models=models)


def test_a_handler_is_an_instance(router: SocaityRouter) -> None:
    with pytest.raises(ConfigurationError, match=r"write Echo\(\)"):
        router.add_handler(Echo, models="a")  # type: ignore[arg-type]


def test_a_model_has_one_name(router: SocaityRouter) -> None:
    with pytest.raises(ConfigurationError, match="'echo'"):
        router.add_handler(Echo(), models="echo")


async def test_a_route_cannot_have_the_name_of_a_handlers_model(router: SocaityRouter) -> None:
    @router.add_route("/echo")
    def echo(x: int) -> int:
        return x

    async with open_client(router) as client:
        with pytest.raises(ConfigurationError, match="'echo'"):
            await client.get("/health")


@pytest.mark.parametrize("answer", [False, OSError("no file")])
def test_a_model_that_cannot_be_loaded_is_an_error(router: SocaityRouter, answer: Any) -> None:
    class Broken(Echo):
        def model_load(self, model_name: str) -> bool:
            if isinstance(answer, Exception):
                raise answer
            return bool(answer)

    with pytest.raises(ConfigurationError, match="'broken'"):
        router.add_handler(Broken(), models="broken")


# The types


def test_validation_names_the_tensor_and_what_is_wrong() -> None:
    request = InferenceRequest.model_validate(
        {"inputs": [{"name": "i", "shape": [2, 2], "datatype": "FP32", "data": [1.0, 2.0]}]}
    )
    response = InferenceResponse.model_validate(
        {"model_name": "m", "outputs": [{"name": "o", "shape": [1], "datatype": "BOOL", "data": [1]}]}
    )

    with pytest.raises(TensorError, match=r"InferenceRequest input \('i'\)"):
        request.validate_oip()
    with pytest.raises(TensorError, match=r"InferenceResponse output \('o'\)"):
        response.validate_oip()


async def test_streams_and_generate_work_with_handlers(client: httpx.AsyncClient) -> None:
    answer = await client.post("/v2/models/double/generate", json={"x": [1, 2]})
    stream = await client.post("/v2/models/double/generate_stream", json={"x": [1, 2]})

    assert answer.json()["y"] == [2.0, 4.0]
    assert stream.text.startswith("data: ")
