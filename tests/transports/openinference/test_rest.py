"""REST: what is sent, and what becomes of answers that are unusual or wrong."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import numpy as np
import pytest
import respx

import socaity
from socaity.exceptions import (
    APIError,
    AuthenticationError,
    ConnectError,
    InvalidInputError,
    JobCancelled,
    JobFailed,
    NotFoundError,
    ProtocolError,
    RateLimitError,
    ServerError,
    TransportError,
)
from socaity.protocol.openinference.messages import InferResponse, Tensor
from socaity.protocol.openinference.rest import HEADER_LENGTH, read_request, write_response
from socaity.transport import CallOptions, Target
from socaity_transports.openinference.transport import OpenInferenceTransport
from tests.transports.doubles import RecordedCall, served

from .scripted import ECHO, SERVER, Answer, Request, ScriptedREST, called

pytestmark = pytest.mark.anyio
INFER = "/v2/models/echo/infer"


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@asynccontextmanager
async def opened(url: str, **options: Any) -> AsyncIterator[OpenInferenceTransport]:
    transport = OpenInferenceTransport.open(Target(url.replace("http", "oip+http", 1), **options))
    try:
        yield transport
    finally:
        await transport.aclose()


def echo(request: Request, *, binary: bool = True, id: str | None = None) -> Answer:
    length = request.headers.get(HEADER_LENGTH.lower())
    asked = read_request(request.body, None if length is None else int(length), model_name="echo")
    [tensor] = asked.inputs
    output = Tensor("y", tensor.datatype, tensor.shape, tensor.data, is_binary=binary)
    pieces, size = write_response(InferResponse("echo", [output], id=id or asked.id))
    return Answer(b"".join(pieces), headers={} if size is None else {HEADER_LENGTH: str(size)})


def document(**fields: Any) -> dict[str, Any]:
    output = {"name": "y", "datatype": "FP32", "shape": [1], "data": [1.5]}
    return {"model_name": "echo", "outputs": [{**output, **fields}]}


async def test_binary_is_sent_where_the_server_takes_it_with_the_id_of_the_job() -> None:
    app = ScriptedREST({INFER: echo})
    with served(app) as url:
        async with opened(url, api_key="key-1", headers={"X-Team": "a"}) as transport:
            call = await called(transport, "echo", x=np.arange(3, dtype=np.float32))
    assert call.value.tolist() == [0, 1, 2]
    sent = app.requests[-1]
    assert sent.headers["content-type"] == "application/octet-stream"
    assert sent.headers["authorization"] == "Bearer key-1"
    assert sent.headers["x-team"] == "a"
    length = int(sent.headers[HEADER_LENGTH.lower()])
    assert length % 64 == 0
    assert json.loads(sent.body[:length]) == {
        "id": call.id,
        "inputs": [{"name": "x", "shape": [3], "datatype": "FP32", "parameters": {"binary_data_size": 12}}],
        "parameters": {"binary_data_output": True},
    }


@pytest.mark.parametrize("query", ["", "?binary=false"])
async def test_json_is_sent_where_the_server_does_not_say_that_it_takes_binary(query: str) -> None:
    server = {**SERVER, "extensions": []} if not query else SERVER
    app = ScriptedREST({INFER: lambda request: echo(request, binary=False), "/v2": server})
    with served(app) as url:
        async with opened(url + query) as transport:
            call = await called(transport, "echo", x=[0.5, np.nan])
    assert np.isnan(call.value).tolist() == [False, True]
    sent = app.requests[-1]
    assert HEADER_LENGTH.lower() not in sent.headers
    assert json.loads(sent.body)["inputs"][0]["data"] == [0.5, None]


async def test_binary_may_be_demanded() -> None:
    app = ScriptedREST({INFER: echo, "/v2": {**SERVER, "extensions": []}})
    with served(app) as url:
        async with opened(f"{url}?binary=true") as transport:
            assert (await called(transport, "echo", x=[2.0])).value.tolist() == [2]
    assert HEADER_LENGTH.lower() in app.requests[-1].headers


async def test_compression_goes_both_ways() -> None:
    def compressed(request: Request) -> Answer:
        assert request.headers["accept-encoding"] == "gzip"
        assert request.headers["content-encoding"] == "gzip"
        request.body = gzip.decompress(request.body)
        answer = echo(request)
        return Answer(gzip.compress(answer.body), headers={**answer.headers, "Content-Encoding": "gzip"})

    with served(ScriptedREST({INFER: compressed})) as url:
        async with opened(f"{url}?compression=gzip") as transport:
            call = await called(transport, "echo", x=np.zeros(100_000, np.float32))
    assert call.value.shape == (100_000,)


async def test_parameters_timeout_and_priority_are_parameters_of_the_request() -> None:
    app = ScriptedREST({INFER: echo})
    with served(app) as url:
        async with opened(url) as transport:
            [endpoint] = (await transport.describe()).endpoints
            call = RecordedCall(endpoint, {"x": [1.0], "parameters": {"sequence_id": 7, "mine": "a"}})
            call.options, call.time_left = CallOptions(priority=10), 2.5  # type: ignore[assignment]
            transport.start([call])
            await call.result()
    sent = app.requests[-1]
    found = json.loads(sent.body[: int(sent.headers[HEADER_LENGTH.lower()])])["parameters"]
    assert found == {
        "sequence_id": 7,
        "mine": "a",
        "priority": 1,
        "timeout": 2_500_000,
        "binary_data_output": True,
    }


@pytest.mark.parametrize(
    ("answer", "kind", "said"),
    [
        (Answer({"error": "no such shape"}, 400), InvalidInputError, "no such shape"),
        (Answer({"error": "who are you"}, 401), AuthenticationError, "who are you"),
        (Answer({"error": "not you"}, 403), AuthenticationError, "not you"),
        (Answer({"error": "gone"}, 404), NotFoundError, "gone"),
        (Answer({"error": "slowly"}, 429, {"Retry-After": "3"}), RateLimitError, "slowly"),
        (Answer({"error": "full"}, 503, {"Retry-After": "3"}), ServerError, "full"),
        (Answer({"error": "broken"}, 500), ServerError, "broken"),
        (
            Answer({"detail": [{"loc": ["body", "inputs"], "msg": "Field required"}]}, 422),
            InvalidInputError,
            "inputs",
        ),
        (
            Answer(b"", 400),
            InvalidInputError,
            "answered 400 without a reason; it may not know the route, or the model",
        ),
        (Answer(b"", 401), AuthenticationError, "api_key"),
        (Answer(b"", 503), ServerError, "not ready, or a queue is full"),
        (Answer(b" \n", 500), ServerError, "look at its log"),
        (
            Answer(b"Internal Server Error", 500, {"content-type": "text/plain"}),
            ServerError,
            "Internal Server Error",
        ),
    ],
)
async def test_errors_have_their_exception_and_a_reason(
    answer: Answer, kind: type[APIError], said: str
) -> None:
    with served(ScriptedREST({INFER: answer})) as url:
        async with opened(url) as transport:
            call = await called(transport, "echo", x=[1.0])
    assert type(call.error) is kind
    assert said in str(call.error)
    assert call.error.status == answer.status
    assert call.error.retry_after == (3 if "Retry-After" in answer.headers else None)
    assert not call.is_accepted, "it may be tried again"


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"no json",
        [],
        {"model_name": "echo"},
        document(shape=[2]),
        document(datatype="FP99"),
        document(data=["a"]),
        document(parameters={"binary_data_size": 4}, data=None),
        Answer(document(), headers={HEADER_LENGTH: "100000"}),
        Answer(document(), headers={HEADER_LENGTH: "some"}),
        Answer(b"[" * 100_000),
    ],
    ids=repr,
)
async def test_an_answer_that_is_none_is_a_fault_of_the_protocol(answer: Any) -> None:
    with served(ScriptedREST({INFER: answer})) as url:
        async with opened(url) as transport:
            call = await called(transport, "echo", x=[1.0])
    assert isinstance(call.error, ProtocolError)
    assert "no answer" in str(call.error)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ([], "a JSON object with `outputs`"),
        ({"outputs": 2 * document()["outputs"]}, "output 'y' already exists in the answer"),
        (document(shape=[2**62]), "byte size overflow for output 'y'"),
    ],
)
async def test_what_is_wrong_with_an_answer_is_said_of_the_answer(answer: Any, said: str) -> None:
    with served(ScriptedREST({INFER: answer})) as url:
        async with opened(url) as transport:
            call = await called(transport, "echo", x=[1.0])
    assert said in str(call.error)


async def test_objects_among_the_parameters_of_an_answer_do_no_harm() -> None:
    answer = {
        **document(parameters={"content_type": "np", "more": [1]}),
        "parameters": {"headers": {"a": "b"}},
    }
    with served(ScriptedREST({INFER: answer})) as url:
        async with opened(url) as transport:
            assert (await called(transport, "echo", x=[1.0])).value.tolist() == [1.5]


async def test_bf16_is_float32_here() -> None:
    metadata = {
        "inputs": [{"name": "x", "datatype": "BF16", "shape": [-1]}],
        "outputs": [{"name": "y", "datatype": "BF16", "shape": [-1]}],
    }
    app = ScriptedREST({INFER: echo, "/v2/models/echo": metadata})
    with served(app) as url:
        async with opened(url) as transport:
            call = await called(transport, "echo", x=np.array([1.5, -2.25], np.float32))
    assert call.value.dtype == np.float32
    assert call.value.tolist() == [1.5, -2.25]
    assert app.requests[-1].body.endswith(b"\xc0\x3f\x10\xc0"), "two bytes for each"


async def test_bytes_that_are_no_text_need_a_binary_wire() -> None:
    metadata = {"inputs": [{"name": "x", "datatype": "BYTES", "shape": [-1]}]}
    app = ScriptedREST({"/v2/models/echo": metadata, "/v2": {**SERVER, "extensions": []}})
    with served(app) as url:
        async with opened(url) as transport:
            call = await called(transport, "echo", x=[b"\xff"])
    assert isinstance(call.error, InvalidInputError)
    assert app.paths.count(INFER) == 0


async def test_parameters_that_have_no_form_in_json_are_refused_before_they_are_sent() -> None:
    app = ScriptedREST()
    with served(app) as url:
        async with opened(url) as transport:
            for value in (np.int64(1), float("nan"), "\udcff"):
                call = await called(transport, "echo", x=[1.0], parameters={"a": value})
                assert isinstance(call.error, InvalidInputError)
                assert str(call.error).startswith("echo: ")
    assert app.paths.count(INFER) == 0


async def test_cancelling_drops_the_request() -> None:
    app = ScriptedREST({INFER: Answer(waits=True)})
    arrived = asyncio.Event()

    def arrive(_: Request) -> Answer:
        loop.call_soon_threadsafe(arrived.set)
        return Answer(waits=True)

    async def app_and_gone(scope: Any, receive: Any, send: Any) -> None:
        await app(scope, receive, send)
        if app.gone.is_set():
            loop.call_soon_threadsafe(gone.set)

    loop, gone = asyncio.get_running_loop(), asyncio.Event()
    app.routes[INFER] = arrive
    with served(app_and_gone) as url:
        async with opened(url) as transport:
            [endpoint] = (await transport.describe()).endpoints
            call = RecordedCall(endpoint, {"x": [1.0]})
            transport.start([call])
            async with asyncio.timeout(20):
                await arrived.wait()
                await transport.cancel(call.id)
                await call.ended()
                assert isinstance(call.error, JobCancelled)
                await gone.wait()


async def test_a_refusal_is_tried_again_with_the_same_id_after_the_time_that_the_server_says() -> None:
    refusals = iter([Answer({"error": "full"}, 503, {"Retry-After": "0.01"}), Answer(b"", 429)])
    app = ScriptedREST({INFER: lambda request: next(refusals, None) or echo(request)})
    with served(app) as url:
        policy = socaity.RetryPolicy(base_delay=0.001)
        where = url.replace("http", "oip+http", 1)
        async with socaity.connect(where, retry=policy, progress=False) as service:
            job = service.echo([1.5])
            assert (await job).tolist() == [1.5]
    sent = [one for one in app.requests if one.path == INFER]
    assert [job.id.encode() in one.body for one in sent] == [True, True, True]


async def test_a_request_that_broke_is_repeated_only_where_that_does_no_harm() -> None:
    with respx.mock(base_url="http://host") as router:
        router.get("/v2").respond(json=SERVER)
        router.post("/v2/repository/index").respond(json=[{"name": "echo"}])
        router.get("/v2/models/echo").respond(json=ECHO)
        router.post(INFER).mock(side_effect=httpx.ReadError("cut"))
        transport = _with_mocked(OpenInferenceTransport.open(Target("oip+http://host")))
        call = await called(transport, "echo", x=[1.0])
        assert type(call.error) is TransportError
        assert not call.is_accepted
        in_sequence = await called(transport, "echo", x=[1.0], parameters={"sequence_id": 1})
        assert in_sequence.is_accepted
        assert in_sequence.error.ambiguous  # type: ignore[union-attr]
        router.post(INFER).mock(side_effect=httpx.ConnectError("away"))
        away = await called(transport, "echo", x=[1.0], parameters={"sequence_id": 1})
        assert isinstance(away.error, ConnectError)
        assert not away.is_accepted
        await transport.aclose()


def _with_mocked(transport: OpenInferenceTransport) -> OpenInferenceTransport:
    """respx answers below the client of httpx, whose connections are our own otherwise."""
    wire: Any = transport._wire
    wire._client._client = httpx.AsyncClient()
    return transport


# -- what there is ----------------------------------------------------------------------------------------------------


async def test_a_server_with_the_list_of_kserve_is_asked_for_that() -> None:
    app = ScriptedREST({"/v2/repository/index": Answer(b"", 404), "/v2/models": {"models": ["echo"]}})
    with served(app) as url:
        async with opened(url) as transport:
            assert [one.name for one in (await transport.describe()).endpoints] == ["echo"]


async def test_a_server_without_a_list_needs_the_name_in_the_address() -> None:
    app = ScriptedREST({"/v2/repository/index": Answer(b"", 400), INFER: echo})
    with served(app) as url:
        async with opened(url) as transport:
            with pytest.raises(ProtocolError, match="name the one that is meant in the address"):
                await transport.describe()
        async with opened(f"{url}/v2/models/echo") as transport:
            assert (await called(transport, "echo", x=[1.0])).value.tolist() == [1]


async def test_a_model_that_is_named_needs_no_server_that_tells_of_itself() -> None:
    with served(ScriptedREST({"/v2": Answer(b"", 404), INFER: lambda one: echo(one, binary=False)})) as url:
        async with opened(f"{url}/v2/models/echo") as transport:
            assert (await called(transport, "echo", x=[1.0])).value.tolist() == [1]
        async with opened(url) as transport:
            with pytest.raises(NotFoundError):
                await transport.describe()


async def test_each_of_several_versions_is_an_endpoint() -> None:
    narrow = {**ECHO, "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 2]}]}
    app = ScriptedREST(
        {
            "/v2/models/echo": {**ECHO, "versions": ["1", "2"]},
            "/v2/models/echo/versions/1": ECHO,
            "/v2/models/echo/versions/2": narrow,
            "/v2/models/echo/versions/2/infer": echo,
        }
    )
    with served(app) as url:
        async with opened(url) as transport:
            assert [one.name for one in (await transport.describe()).endpoints] == [
                "echo",
                "echo:1",
                "echo:2",
            ]
            assert (await called(transport, "echo:2", x=[[1.0, 2.0]])).value.shape == (1, 2)
        async with opened(f"{url}/v2/models/echo/versions/2") as transport:
            assert (await called(transport, "echo", x=[[1.0, 2.0]])).value.shape == (1, 2)
    assert app.paths.count("/v2/models/echo/versions/2/infer") == 2


async def test_a_version_that_cannot_be_asked_is_left_out_alone(caplog: pytest.LogCaptureFixture) -> None:
    app = ScriptedREST(
        {
            "/v2/models/echo": {**ECHO, "versions": ["1", "2", "3"]},
            "/v2/models/echo/versions/2": {"inputs": "none"},
            "/v2/models/echo/versions/3": ECHO,
            INFER: echo,
        }
    )
    with served(app) as url:
        async with opened(url) as transport:
            assert [one.name for one in (await transport.describe()).endpoints] == ["echo", "echo:3"]
            assert (await called(transport, "echo", x=[1.0])).value.tolist() == [1]
    left_out = {record.args[0] for record in caplog.records if isinstance(record.args, tuple)}
    assert left_out >= {"echo:1", "echo:2"}
    assert not left_out & {"echo", "echo:3"}


async def test_a_model_that_does_not_batch_takes_inputs_of_several_lengths() -> None:
    metadata = {**ECHO, "inputs": [{"name": name, "datatype": "FP64", "shape": [-1]} for name in "xz"]}
    app = ScriptedREST(
        {
            "/v2": {**SERVER, "extensions": ["model_configuration"]},
            "/v2/models/echo": metadata,
            "/v2/models/echo/config": {"name": "echo", "max_batch_size": 0},
            INFER: document(),
        }
    )
    with served(app) as url:
        async with opened(url) as transport:
            call = await called(transport, "echo", x=[1.0, 2.0], z=[1.0])
    assert call.error is None
    assert [one["shape"] for one in json.loads(app.requests[-1].body)["inputs"]] == [[2], [1]]


async def test_a_model_that_is_not_ready_or_not_understood_is_left_out() -> None:
    index = [
        {"name": "echo", "state": "READY"},
        {"name": "loading", "state": "LOADING"},
        {"name": "lost", "state": "READY"},
        {"name": "odd", "state": "READY"},
        {"name": "echo", "version": "2", "state": "READY"},
    ]
    app = ScriptedREST({"/v2/repository/index": index, "/v2/models/odd": {"inputs": "none"}})
    with served(app) as url:
        async with opened(url) as transport:
            assert [one.name for one in (await transport.describe()).endpoints] == ["echo"]
    assert "/v2/models/loading" not in app.paths


@pytest.mark.parametrize("answer", [b"<html>", [], {"version": "1"}], ids=repr)
async def test_what_is_no_server_of_the_protocol_says_so(answer: Any) -> None:
    with served(ScriptedREST({"/v2": answer})) as url:
        async with opened(url) as transport:
            with pytest.raises(ProtocolError, match="/v2"):
                await transport.describe()


async def test_names_are_escaped_in_paths() -> None:
    app = ScriptedREST({"/v2/models/a%2Fb%3F": ECHO, "/v2/repository/index": [{"name": "a/b?"}]})
    with served(app) as url:
        async with opened(url) as transport:
            assert [one.name for one in (await transport.describe()).endpoints] == ["a/b?"]


# -- streams ----------------------------------------------------------------------------------------------------------


def events(*documents: Any) -> Answer:
    text = "".join(f"data: {json.dumps(one)}\n\n" for one in documents)
    return Answer(text.encode(), headers={"Content-Type": "text/event-stream; charset=utf-8"})


STREAMING = {**ECHO, "properties": {"decoupled": "true"}}


async def test_a_stream_of_answers_is_a_stream_of_arrays() -> None:
    app = ScriptedREST(
        {
            "/v2/models/echo": STREAMING,
            f"{INFER}_stream": events(document(), {"outputs": []}, document(data=[2])),
        }
    )
    with served(app) as url:
        async with opened(url) as transport:
            call = await called(transport, "echo", x=[1.0])
    assert [chunk.tolist() for chunk in call.chunks] == [[1.5], [2.0]]
    assert call.kinds == ["status", "chunk", "chunk", "result"]


@pytest.mark.parametrize(
    "missing", [Answer(b"", 400), Answer({"detail": "Not Found"}, 404), Answer(b"", 405)]
)
async def test_triton_streams_through_generate(missing: Answer) -> None:
    generate = "/v2/models/echo/generate_stream"
    metadata = {
        **STREAMING,
        "inputs": [
            {"name": "PROMPT", "datatype": "BYTES", "shape": [1]},
            {"name": "N", "datatype": "INT32", "shape": [2]},
        ],
        "outputs": [
            {"name": "TEXT", "datatype": "BYTES", "shape": [1]},
            {"name": "LOGS", "datatype": "FP32", "shape": [-1]},
        ],
    }
    app = ScriptedREST(
        {
            "/v2/models/echo": metadata,
            f"{INFER}_stream": missing,
            generate: events(
                {"model_name": "echo", "TEXT": "a", "LOGS": [0.5, 1]}, {"TEXT": "b", "LOGS": []}
            ),
        }
    )
    with served(app) as url:
        async with opened(url) as transport:
            call = await called(transport, "echo", PROMPT="p", N=[1, 2], parameters={"t": 1})
            assert [(one["TEXT"], one["LOGS"].tolist()) for one in call.chunks] == [
                ("a", [0.5, 1]),
                ("b", []),
            ]
            await called(transport, "echo", PROMPT="p", N=[1, 2])
    assert app.paths.count(f"{INFER}_stream") == 1, "it is known now"
    [first, _] = [one for one in app.requests if one.path == generate]
    assert json.loads(first.body) == {"id": call.id, "PROMPT": "p", "N": [1, 2], "parameters": {"t": 1}}


@pytest.mark.parametrize(
    ("answer", "kind", "said"),
    [
        (events(document(), {"error": "out of words"}), JobFailed, "out of words"),
        (events({"odd": 1}), ProtocolError, "no answer"),
        (events("text"), ProtocolError, "no JSON object"),
        (Answer(b"data: {\n\n", headers={"Content-Type": "text/event-stream"}), ProtocolError, "not JSON"),
        (Answer(document()), ProtocolError, "instead of a stream"),
        (Answer({"error": "full"}, 503), ServerError, "full"),
        (Answer({"error": "wrong"}, 400), InvalidInputError, "wrong"),
    ],
)
async def test_what_goes_wrong_in_a_stream_is_told(answer: Answer, kind: type[Exception], said: str) -> None:
    with served(ScriptedREST({"/v2/models/echo": STREAMING, f"{INFER}_stream": answer})) as url:
        async with opened(url) as transport:
            call = await called(transport, "echo", x=[1.0])
    assert type(call.error) is kind
    assert said in str(call.error)
