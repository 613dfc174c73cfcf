"""gRPC: what is sent, and what becomes of errors, against a server that does as it is told."""

from __future__ import annotations

import asyncio
import datetime
import ipaddress
import os
import socket
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

import socaity
from socaity.exceptions import (
    APIError,
    AuthenticationError,
    ConfigurationError,
    ConnectError,
    InvalidInputError,
    JobCancelled,
    JobFailed,
    NotFoundError,
    ProtocolError,
    RateLimitError,
    ServerError,
    TransportError,
    TransportTimeout,
)
from socaity.protocol.openinference.protobuf import messages
from socaity.transport import CallOptions, Target, open_transport
from socaity_transports.openinference.transport import OpenInferenceTransport
from tests.transports.doubles import RecordedCall

from .scripted import ScriptedGRPC, called, echo

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module", autouse=True)
async def one_loop() -> None:
    """One loop for all of them. grpc.aio has one queue for all loops of a process: the last event of a call that was cancelled
    may come when its loop is closed, and is then an error of the loop that runs."""


@asynccontextmanager
async def opened(port: int, query: str = "", **options: Any) -> AsyncIterator[OpenInferenceTransport]:
    scheme = options.pop("scheme", "oip+grpc")
    host = options.pop("host", "127.0.0.1")
    transport = OpenInferenceTransport.open(Target(f"{scheme}://{host}:{port}{query}", **options))
    try:
        yield transport
    finally:
        await transport.aclose()


async def test_our_servers_say_what_went_wrong_in_a_word_of_their_own() -> None:
    def refuse(_: Any, context: Any) -> Any:
        context.set_trailing_metadata((("socaity-code", "token_expired"),))
        context.abort(STATUS.UNAUTHENTICATED, "The token has expired.")

    with ScriptedGRPC(ModelInfer=refuse).served() as port:
        async with opened(port) as transport:
            call = await called(transport, "echo", x=np.zeros(1, np.float32))
    error = call.error
    assert isinstance(error, AuthenticationError)
    assert (error.status, error.code) == (401, "token_expired")


@pytest.mark.parametrize("scheme", ["http", "oip+http"])
async def test_http_at_a_port_of_grpc_is_told_so(scheme: str) -> None:
    with ScriptedGRPC(ModelInfer=echo).served() as port:
        transport = open_transport(Target(f"{scheme}://127.0.0.1:{port}"))
        with pytest.raises(TransportError, match=r"broke: .*Does gRPC answer there.* begin with oip.grpc://"):
            await transport.describe()
        await transport.aclose()


async def test_tensors_are_raw_and_the_id_is_that_of_the_job() -> None:
    seen: list[Any] = []

    def infer(message: Any, context: Any) -> Any:
        seen.append(message)
        return echo(message, context)

    with ScriptedGRPC(ModelInfer=infer).served() as port:
        async with opened(port) as transport:
            call = await called(
                transport, "echo", x=[1.0, 2.0], parameters={"a": 1, "b": "c", "d": True, "e": 0.5}
            )
            large = await called(transport, "echo", x=np.arange(3_000_000, dtype=np.float32))
    assert call.value.tolist() == [1, 2]
    assert large.value[-1] == 2_999_999, "larger than the 4 MiB that gRPC takes by itself"
    large.value[0] = 5
    [message, _] = seen
    assert (message.model_name, message.id, len(message.raw_input_contents)) == ("echo", call.id, 1)
    assert not message.inputs[0].contents.ListFields()
    assert {name: one.WhichOneof("parameter_choice") for name, one in message.parameters.items()} == {
        "a": "int64_param",
        "b": "string_param",
        "d": "bool_param",
        "e": "double_param",
    }


async def test_the_key_and_headers_are_metadata_of_every_call() -> None:
    server = ScriptedGRPC(ModelInfer=echo)
    with server.served() as port:
        async with opened(port, api_key="key-1", headers={"X-Team": "a", "Blob-Bin": "b"}) as transport:
            assert (await called(transport, "echo", x=[1.0])).value.tolist() == [1]
    assert {name for name, _ in server.metadata} == {
        "ServerMetadata",
        "RepositoryIndex",
        "ModelMetadata",
        "ModelInfer",
    }
    for _, metadata in server.metadata:
        assert metadata["authorization"] == "Bearer key-1"
        assert (metadata["x-team"], metadata["blob-bin"]) == ("a", b"b")


@pytest.mark.parametrize("headers", [{"a b": "SECRET"}, {"a": "SECRET\n"}, {"a": "SECRÉT"}])
async def test_headers_that_grpc_cannot_carry_are_refused_without_their_value(
    headers: dict[str, str],
) -> None:
    [(name, value)] = headers.items()
    with pytest.raises(ConfigurationError, match="cannot be sent with gRPC") as caught:
        OpenInferenceTransport.open(Target("oip+grpc://host:1", headers=headers))
    assert repr(name) in str(caught.value)
    assert value not in str(caught.value)


async def test_the_user_in_the_address_is_sent_and_not_shown() -> None:
    server = ScriptedGRPC(ModelInfer=lambda _, context: context.abort(grpc.StatusCode.INTERNAL, ""))
    with server.served() as port:
        async with opened(port, host="ada:secret@127.0.0.1") as transport:
            call = await called(transport, "echo", x=[1.0])
    assert server.metadata[0][1]["authorization"] == "Basic YWRhOnNlY3JldA=="
    assert "secret" not in str(call.error)


@pytest.mark.parametrize("how", ["gzip", "deflate"])
async def test_messages_may_be_compressed(how: str) -> None:
    with ScriptedGRPC(ModelInfer=echo).served() as port:
        async with opened(port, f"?compression={how}") as transport:
            assert (await called(transport, "echo", x=np.zeros(1000, np.float32))).value.shape == (1000,)


STATUS = grpc.StatusCode


@pytest.mark.parametrize(
    ("code", "kind", "status"),
    [
        (STATUS.INVALID_ARGUMENT, InvalidInputError, 400),
        (STATUS.FAILED_PRECONDITION, InvalidInputError, 400),
        (STATUS.UNAUTHENTICATED, AuthenticationError, 401),
        (STATUS.PERMISSION_DENIED, AuthenticationError, 403),
        (STATUS.NOT_FOUND, NotFoundError, 404),
        (STATUS.RESOURCE_EXHAUSTED, RateLimitError, 429),
        (STATUS.ABORTED, ServerError, 500),
        (STATUS.CANCELLED, ServerError, 500),
        (STATUS.INTERNAL, ServerError, 500),
        (STATUS.UNKNOWN, ServerError, 500),
        (STATUS.UNIMPLEMENTED, ServerError, 501),
        (STATUS.UNAVAILABLE, ServerError, 503),
    ],
)
@pytest.mark.parametrize("text", ["the reason", ""])
async def test_each_status_has_its_exception(
    code: grpc.StatusCode, kind: type[APIError], status: int, text: str
) -> None:
    def refuse(_: Any, context: Any) -> None:
        context.set_trailing_metadata((("grpc-retry-pushback-ms", "1500"),))
        context.abort(code, text)

    with ScriptedGRPC(ModelInfer=refuse).served() as port:
        async with opened(port) as transport:
            call = await called(transport, "echo", x=[1.0])
    assert type(call.error) is kind
    assert call.error.status == status
    assert call.error.retry_after == 1.5
    assert (text or f"answered {code.name} without a reason") in str(call.error)
    assert not call.is_accepted


@pytest.mark.parametrize(
    ("code", "pushback", "kind"),
    [
        (STATUS.UNAVAILABLE, "-1", ServerError),
        (STATUS.RESOURCE_EXHAUSTED, "-1", RateLimitError),
        (STATUS.UNAVAILABLE, "never", ServerError),
        (STATUS.UNAVAILABLE, "9" * 400, ServerError),
    ],
)
@pytest.mark.parametrize("streams", [False, True])
async def test_what_the_server_wants_not_again_is_sent_once(
    code: grpc.StatusCode, pushback: str, kind: type[APIError], streams: bool
) -> None:
    calls: list[Any] = []

    def refuse(message: Any, context: Any) -> Any:
        calls.append(message)
        context.set_trailing_metadata((("grpc-retry-pushback-ms", pushback),))
        context.abort(code, "not this one")
        yield

    def refuse_one(message: Any, context: Any) -> Any:
        return next(refuse(message, context))

    methods = (
        {"ModelMetadata": decoupled, "ModelStreamInfer": refuse} if streams else {"ModelInfer": refuse_one}
    )
    with ScriptedGRPC(**methods).served() as port:
        policy = socaity.RetryPolicy(base_delay=0.001)
        async with socaity.connect(f"oip+grpc://127.0.0.1:{port}", retry=policy, progress=False) as service:
            async with asyncio.timeout(20):
                with pytest.raises(kind, match="not this one") as caught:
                    await service.echo("p" if streams else [1.0])
    assert caught.value.retry_after is None
    assert len(calls) == 1


async def test_too_large_a_request_is_sent_once_and_is_no_matter_of_a_limit_on_calls() -> None:
    server = ScriptedGRPC(ModelInfer=echo)
    with server.served(max_message=10_000) as port:
        policy = socaity.RetryPolicy(base_delay=0.001)
        async with socaity.connect(f"oip+grpc://127.0.0.1:{port}", retry=policy, progress=False) as service:
            async with asyncio.timeout(20):
                job = service.echo(np.zeros(100_000, np.float32))
                with pytest.raises(InvalidInputError, match="larger than max") as caught:
                    await job
    assert (caught.value.status, caught.value.code) == (413, "body_too_large")


async def test_our_servers_word_for_too_large_counts() -> None:
    def refuse(_: Any, context: Any) -> Any:
        context.set_trailing_metadata((("socaity-code", "body_too_large"), ("grpc-retry-pushback-ms", "-1")))
        context.abort(STATUS.RESOURCE_EXHAUSTED, "unpacked it has more bytes than are allowed")

    with ScriptedGRPC(ModelInfer=refuse).served() as port:
        async with opened(port) as transport:
            call = await called(transport, "echo", x=[1.0])
    assert isinstance(call.error, InvalidInputError)
    assert call.error.status == 413


@pytest.mark.parametrize(
    "parameters", [{"x": 2**70}, {"x": -(2**63) - 1}, {"x": "\udcff"}, {"x": np.int64(1)}, None], ids=repr
)
@pytest.mark.parametrize("streams", [False, True])
async def test_what_has_no_form_in_a_message_is_refused_before_it_is_sent(
    parameters: dict[str, Any] | None, streams: bool
) -> None:
    def described(*_: Any) -> Any:
        message = decoupled()
        message.properties["decoupled"] = str(streams).lower()
        return message

    server = ScriptedGRPC(ModelMetadata=described)
    with server.served() as port:
        async with opened(port) as transport:
            text = "\ud800" if parameters is None else "p"
            call = await called(transport, "echo", x=text, parameters=parameters)
    assert isinstance(call.error, InvalidInputError)
    assert str(call.error).startswith("echo: ")
    assert not {"ModelInfer", "ModelStreamInfer"} & {name for name, _ in server.metadata}


async def test_a_configuration_without_a_largest_batch_says_that_there_is_none() -> None:
    """A number of 0 is not written in a message."""

    def two_inputs(*_: Any) -> Any:
        inputs = [{"name": name, "datatype": "FP32", "shape": [-1]} for name in "xy"]
        return messages().ModelMetadataResponse(name="echo", inputs=inputs)

    def add(message: Any, _: Any) -> Any:
        assert [list(one.shape) for one in message.inputs] == [[2], [1]]
        return messages().ModelInferResponse(model_name="echo")

    def about(*_: Any) -> Any:
        return messages().ServerMetadataResponse(name="scripted", extensions=["model_configuration"])

    methods = {"ServerMetadata": about, "ModelMetadata": two_inputs, "ModelInfer": add}
    config = messages().ModelConfigResponse(config={"name": "echo"})
    with ScriptedGRPC(ModelConfig=lambda *_: config, **methods).served() as port:
        async with opened(port) as transport:
            call = await called(transport, "echo", x=[1.0, 2.0], y=[1.0])
            assert call.error is None
    nothing = messages().ModelConfigResponse()
    with ScriptedGRPC(ModelConfig=lambda *_: nothing, **methods).served() as port:
        async with opened(port) as transport:
            call = await called(transport, "echo", x=[1.0, 2.0], y=[1.0])
            assert isinstance(call.error, InvalidInputError)


async def test_an_answer_with_an_output_twice_speaks_of_the_answer() -> None:
    def twice(message: Any, context: Any) -> Any:
        answer = echo(message, context)
        answer.outputs.append(answer.outputs[0])
        return answer

    with ScriptedGRPC(ModelInfer=twice).served() as port:
        async with opened(port) as transport:
            call = await called(transport, "echo", x=[1.0])
    assert isinstance(call.error, ProtocolError)
    assert "output 'y' already exists in the answer" in str(call.error)


async def test_a_deadline_goes_along_and_what_is_late_is_a_timeout() -> None:
    left: list[float] = []
    has_ended = threading.Event()

    def wait(_: Any, context: Any) -> Any:
        left.append(context.time_remaining())
        context.add_callback(has_ended.set)
        assert has_ended.wait(20)
        return messages().ModelInferResponse()

    with ScriptedGRPC(ModelInfer=wait).served() as port:
        async with opened(port) as transport:
            [endpoint] = (await transport.describe()).endpoints
            call = RecordedCall(endpoint, {"x": [1.0]})
            call.options, call.time_left = CallOptions(timeout=0.3), 0.3  # type: ignore[assignment]
            transport.start([call])
            await call.ended()
    assert isinstance(call.error, TransportTimeout)
    assert 0 < left[0] < 1


async def test_cancelling_cancels_the_call_at_the_server() -> None:
    loop = asyncio.get_running_loop()
    arrived = asyncio.Event()
    has_ended = threading.Event()

    def wait(_: Any, context: Any) -> Any:
        context.add_callback(has_ended.set)
        loop.call_soon_threadsafe(arrived.set)
        assert has_ended.wait(20)
        return messages().ModelInferResponse()

    with ScriptedGRPC(ModelInfer=wait).served() as port:
        async with opened(port) as transport:
            [endpoint] = (await transport.describe()).endpoints
            call = RecordedCall(endpoint, {"x": [1.0]})
            transport.start([call])
            async with asyncio.timeout(20):
                await arrived.wait()
            await transport.cancel(call.id)
            await call.ended()
            assert isinstance(call.error, JobCancelled)
            assert await asyncio.to_thread(has_ended.wait, 20)


async def test_nothing_is_sent_where_nobody_listens() -> None:
    with ScriptedGRPC().served() as port:
        pass
    async with opened(port) as transport:
        with pytest.raises(ConnectError, match="nothing was sent"):
            await transport.describe()


async def test_one_that_listens_and_says_nothing_is_given_up_in_time() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        async with opened(listener.getsockname()[1], timeout=0.2) as transport:
            async with asyncio.timeout(10):
                with pytest.raises(ConnectError, match="nothing was sent"):
                    await transport.describe()


async def test_a_server_that_came_back_is_found_again() -> None:
    server = ScriptedGRPC(ModelInfer=echo)
    with server.served() as port:
        async with opened(port) as transport:
            [endpoint] = (await transport.describe()).endpoints
    async with opened(port) as transport:
        with pytest.raises(ConnectError):
            await transport.describe()
        with server.served(port=port):
            async with asyncio.timeout(20):
                while True:
                    try:
                        await transport.describe()
                        break
                    except ConnectError:  # the next try is a moment away
                        await asyncio.sleep(0)
            call = RecordedCall(endpoint, {"x": [1.0]})
            transport.start([call])
            assert (await call.result()).tolist() == [1]


async def test_a_call_whose_server_goes_away_broke() -> None:
    loop = asyncio.get_running_loop()
    arrived = asyncio.Event()
    has_ended = threading.Event()

    def wait(_: Any, context: Any) -> Any:
        context.add_callback(has_ended.set)
        loop.call_soon_threadsafe(arrived.set)
        assert has_ended.wait(20)
        return messages().ModelInferResponse()

    server = ScriptedGRPC(ModelInfer=wait).served()
    async with opened(server.__enter__()) as transport:
        [endpoint] = (await transport.describe()).endpoints
        call = RecordedCall(endpoint, {"x": [1.0], "parameters": {"sequence_id": 1}})
        transport.start([call])
        async with asyncio.timeout(20):
            await arrived.wait()
        await asyncio.to_thread(server.__exit__, None, None, None)
        await call.ended()
    assert type(call.error) is TransportError
    assert call.error.ambiguous  # type: ignore[attr-defined]
    assert call.is_accepted, "it may have run, so no new try"


async def test_a_closed_transport_sends_nothing() -> None:
    with ScriptedGRPC().served() as port:
        async with opened(port) as transport:
            await transport.describe()
        with pytest.raises(ConnectError, match="has been closed"):
            await transport.describe()


@pytest.mark.parametrize("answer", [b"\xff\xff", b"\x2a\x03\x0a\x01y"], ids=["no message", "no tensor"])
async def test_an_answer_that_is_none_is_a_fault_of_the_protocol(answer: bytes) -> None:
    with ScriptedGRPC(ModelInfer=lambda _, __: answer).served() as port:
        async with opened(port) as transport:
            call = await called(transport, "echo", x=[1.0])
    assert isinstance(call.error, ProtocolError)
    assert "no answer" in str(call.error)


async def test_a_server_without_a_list_needs_the_name_in_the_address() -> None:
    def missing(_: Any, context: Any) -> None:
        context.abort(STATUS.UNIMPLEMENTED, "Method not found!")

    with ScriptedGRPC(RepositoryIndex=missing, ModelInfer=echo).served() as port:
        async with opened(port) as transport:
            with pytest.raises(ProtocolError, match="name the one that is meant in the address"):
                await transport.describe()
        async with opened(port, "/v2/models/echo") as transport:
            assert (await called(transport, "echo", x=[1.0])).value.tolist() == [1]


# -- streams ----------------------------------------------------------------------------------------------------------


def decoupled(*_: Any) -> Any:
    return messages().ModelMetadataResponse(
        name="echo",
        inputs=[{"name": "x", "datatype": "BYTES", "shape": [1]}],
        outputs=[{"name": "y", "datatype": "BYTES", "shape": [1]}],
        properties={"decoupled": "true"},
    )


def answer(text: str) -> Any:
    return messages().ModelInferResponse(
        model_name="echo",
        outputs=[{"name": "y", "datatype": "BYTES", "shape": [1]}],
        raw_output_contents=[len(text).to_bytes(4, "little") + text.encode()],
    )


def wrapped(text: str) -> Any:
    return messages().ModelStreamInferResponse(infer_response=answer(text))


async def streamed(*sent: Any) -> RecordedCall:
    """The call of a model that streams these messages."""

    def stream(requests: Iterator[Any], _: Any) -> Iterator[Any]:
        [_] = list(requests)  # the stream of requests ends, so that the server knows that it is all
        yield from sent

    with ScriptedGRPC(ModelMetadata=decoupled, ModelStreamInfer=stream).served() as port:
        async with opened(port) as transport:
            return await called(transport, "echo", x="p")


async def test_a_stream_of_answers_is_a_stream_of_values() -> None:
    final = messages().ModelStreamInferResponse(infer_response={"model_name": "echo"})
    long = "w" * 50_000
    call = await streamed(wrapped("a"), wrapped("b"), wrapped(long), final)
    assert call.chunks == ["a", "b", long]
    assert call.kinds == ["status", "chunk", "chunk", "chunk", "result"]


async def test_answers_without_the_message_around_them_are_understood() -> None:
    versioned = answer("b")
    versioned.model_version = "1"
    long = "w" * 50_000
    assert (await streamed(answer("a"), versioned, answer(long))).chunks == ["a", "b", long]


async def test_an_error_in_a_stream_ends_it() -> None:
    error = messages().ModelStreamInferResponse(
        error_message="out of words", infer_response={"model_name": "echo"}
    )
    call = await streamed(wrapped("a"), error, wrapped("b"))
    assert call.chunks == ["a"]
    assert isinstance(call.error, JobFailed)
    assert "out of words" in str(call.error)


async def test_a_stream_that_ends_in_a_status_fails_with_it() -> None:
    def stream(requests: Iterator[Any], context: Any) -> Iterator[Any]:
        yield wrapped("a")
        context.abort(STATUS.RESOURCE_EXHAUSTED, "enough")

    with ScriptedGRPC(ModelMetadata=decoupled, ModelStreamInfer=stream).served() as port:
        async with opened(port) as transport:
            call = await called(transport, "echo", x="p")
    assert call.chunks == ["a"]
    assert isinstance(call.error, RateLimitError)
    assert "enough" in str(call.error)


async def test_a_stream_that_is_refused_may_be_tried_again() -> None:
    def refuse(_: Iterator[Any], context: Any) -> Iterator[Any]:
        context.abort(STATUS.UNAVAILABLE, "full")
        yield

    with ScriptedGRPC(ModelMetadata=decoupled, ModelStreamInfer=refuse).served() as port:
        async with opened(port) as transport:
            call = await called(transport, "echo", x="p")
    assert isinstance(call.error, ServerError)
    assert "full" in str(call.error)
    assert not call.is_accepted


async def test_cancelling_a_stream_ends_it_at_the_server() -> None:
    has_ended = threading.Event()

    def stream(_: Iterator[Any], context: Any) -> Iterator[Any]:
        context.add_callback(has_ended.set)
        yield wrapped("a")
        assert has_ended.wait(20)

    with ScriptedGRPC(ModelMetadata=decoupled, ModelStreamInfer=stream).served() as port:
        async with opened(port) as transport:
            [endpoint] = (await transport.describe()).endpoints
            call = RecordedCall(endpoint, {"x": "p"})
            async with asyncio.timeout(20):
                async for event in transport.run(call):
                    if event.kind == "chunk":
                        break
                await transport.cancel(call.id)
            assert await asyncio.to_thread(has_ended.wait, 20)


# -- TLS, processes ---------------------------------------------------------------------------------------------------


def certificate(folder: Path) -> tuple[bytes, bytes, Path]:
    """A key, a certificate for the loopback, and the file in which that is an authority."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "loopback")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = made.public_bytes(serialization.Encoding.PEM)
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    file = folder / "authority.pem"
    file.write_bytes(pem)
    return secret, pem, file


async def test_grpcs_checks_the_certificate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    secret, pem, authority = certificate(tmp_path)
    server = ScriptedGRPC(ModelInfer=echo)
    with server.served(grpc.ssl_server_credentials([(secret, pem)])) as port:
        async with opened(port, scheme="oip+grpcs") as stranger:
            with pytest.raises(ConnectError, match="nothing was sent"):
                await stranger.describe()
        monkeypatch.setenv("SSL_CERT_FILE", str(authority))
        async with opened(port, scheme="oip+grpcs") as transport:
            assert (await called(transport, "echo", x=[1.0])).value.tolist() == [1]
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "missing"))
        async with opened(port, scheme="oip+grpcs") as transport:
            with pytest.raises(ConfigurationError, match="SSL_CERT_FILE"):
                await transport.describe()


FORKED = """
import os, sys
import socaity

service = socaity.connect(sys.argv[1], progress=False, retry=1)
assert service.echo([1.0]).result(20).tolist() == [1]
child = os.fork()
if child == 0:
    try:
        service.echo([1.0]).result(20)
    except socaity.ConfigurationError as exc:
        os._exit(7 if "spawn" in str(exc) else 8)
    os._exit(9)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
assert service.echo([2.0]).result(20).tolist() == [2]
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
async def test_a_forked_process_is_told_that_grpc_is_the_parents() -> None:
    with ScriptedGRPC(ModelInfer=echo).served() as port:
        done = await asyncio.to_thread(
            subprocess.run,
            [sys.executable, "-W", "ignore", "-c", FORKED, f"oip+grpc://127.0.0.1:{port}"],
            capture_output=True,
            text=True,
            timeout=50,
        )
    assert done.returncode == 0, done.stderr


async def test_without_grpcio_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "socaity_transports.openinference.grpc", None)
    with pytest.raises(ConfigurationError, match=r"pip install 'socaity\[grpc\]'"):
        OpenInferenceTransport.open(Target("oip+grpc://host:1"))
