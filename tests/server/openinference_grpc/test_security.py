"""Who may call over gRPC: keys, tokens, policies, TLS. Health and reflection need nobody."""

from __future__ import annotations

import datetime
import struct
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from socaity_server.auth.config import Auth
from socaity_server.frontends.grpc.descriptors import descriptors

from .conftest import SOON, Client, Held, make_router, serve_grpc

KEY = "a-key-of-some-length"
BEARER = (("authorization", f"Bearer {KEY}"),)
X_API_KEY = (("x-api-key", KEY),)
METHODS = [
    "ModelInfer",
    "ModelReady",
    "ServerMetadata",
    "ModelMetadata",
    "ModelConfig",
    "ModelStatistics",
    "RepositoryIndex",
    "RepositoryModelLoad",
    "RepositoryModelUnload",
    "SystemSharedMemoryStatus",
    "TraceSetting",
]


@pytest.fixture
def guarded(connect: Callable[..., Client]) -> Client:
    return connect(make_router(auth=Auth(api_keys=(("ci", KEY),))))


def _infer(client: Client, **options: Any) -> Any:
    return client.call(
        "ModelInfer", message=client.request("same", ("x", "FP32", [1, 1], bytes(4))), **options
    )


@pytest.mark.parametrize("metadata", [BEARER, X_API_KEY])
def test_key_lets_in(guarded: Client, metadata: Any) -> None:
    assert _infer(guarded, metadata=metadata).outputs
    assert guarded.call("ServerMetadata", metadata=metadata).name


@pytest.mark.parametrize("method", METHODS)
def test_nobody_gets_in_without_saying_who_they_are(guarded: Client, method: str) -> None:
    refusal = guarded.refusal(method)
    assert refusal.code() is grpc.StatusCode.UNAUTHENTICATED
    assert "Bearer" in refusal.details()


@pytest.mark.parametrize(
    "metadata",
    [
        (("authorization", "Bearer another-key-altogether"),),
        (("authorization", f"Basic {KEY}"),),
        (("x-api-key", "another-key-altogether"),),
        (("x-api-key", KEY), ("x-api-key", "another-key-altogether")),
        (("authorization", "Bearer"),),
    ],
)
def test_wrong_credentials_are_refused_and_not_repeated(guarded: Client, metadata: Any) -> None:
    refusal = guarded.refusal("ServerMetadata", metadata=metadata)
    assert refusal.code() is grpc.StatusCode.UNAUTHENTICATED
    assert "another-key" not in refusal.details()
    assert KEY not in refusal.details()


def test_health_and_reflection_need_nobody(guarded: Client) -> None:
    assert guarded.call("ServerLive").live
    assert guarded.call("ServerReady").ready
    check = descriptors()["grpc.health.v1.HealthCheckRequest"]
    answer = guarded.channel.unary_unary("/grpc.health.v1.Health/Check")(
        check().SerializeToString(), timeout=SOON
    )
    assert descriptors()["grpc.health.v1.HealthCheckResponse"].FromString(answer).status == 1
    request = descriptors()["grpc.reflection.v1.ServerReflectionRequest"](list_services="*")
    call = guarded.channel.stream_stream("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo")
    assert len(list(call(iter([request.SerializeToString()]), timeout=SOON))) == 1


def test_health_can_be_guarded_as_well(connect: Callable[..., Client]) -> None:
    client = connect(make_router(auth=Auth(api_keys=(("ci", KEY),), exempt=())))
    assert client.refusal("ServerLive").code() is grpc.StatusCode.UNAUTHENTICATED
    assert client.call("ServerLive", metadata=BEARER).live
    check = descriptors()["grpc.health.v1.HealthCheckRequest"]().SerializeToString()
    with pytest.raises(grpc.RpcError) as caught:
        client.channel.unary_unary("/grpc.health.v1.Health/Check")(check, timeout=SOON)
    assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED


def test_stream_ends_for_those_who_may_not_call(guarded: Client) -> None:
    request = guarded.request("count", ("start", "INT64", [1], struct.pack("<q", 1)))
    with pytest.raises(grpc.RpcError) as caught:
        list(guarded.method("ModelStreamInfer")(iter([request]), timeout=SOON))
    assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
    answers = list(guarded.method("ModelStreamInfer")(iter([request]), timeout=SOON, metadata=BEARER))
    assert len(answers) == 3


def test_unread_message_of_a_stranger_tells_nothing_of_models(guarded: Client) -> None:
    known = guarded.refusal("ModelMetadata", name="same")
    unknown = guarded.refusal("ModelMetadata", name="nobody")
    assert (known.code(), known.details()) == (unknown.code(), unknown.details())


def test_policy_that_nobody_answers_is_unavailable(connect: Callable[..., Client]) -> None:
    auth = Auth(api_keys=(("ci", KEY),), opa_url="http://127.0.0.1:9/v1/data/x/allow")
    refusal = connect(make_router(auth=auth)).refusal("ServerMetadata", metadata=BEARER)
    assert refusal.code() is grpc.StatusCode.UNAVAILABLE


def test_policy_is_asked_for_action_and_model(connect: Callable[..., Client]) -> None:
    with Deciding() as point:
        auth = Auth(api_keys=(("ci", KEY),), opa_url=point.url, policy_ttl=0.0)
        client = connect(make_router(auth=auth))
        assert _infer(client, metadata=BEARER).outputs
        refusal = client.refusal("ModelMetadata", name="add", metadata=BEARER)
        assert refusal.code() is grpc.StatusCode.PERMISSION_DENIED
    asked = [(one["action"], one["resource"]) for one in point.asked]
    assert asked == [("infer", "model:same:1"), ("metadata", "model:add:1")]


class Deciding:
    """A decision point that permits `infer` and nothing else."""

    def __init__(self) -> None:
        import http.server
        import json

        self.asked: list[dict[str, Any]] = []
        asked = self.asked

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                document = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["input"]
                asked.append(document)
                body = json.dumps({"result": document["action"] == "infer"}).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.send_header("Content-Type", "application/json")
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *args: object) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/v1/data/x/allow"

    def __enter__(self) -> Deciding:
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(SOON)


def test_jobs_belong_to_who_has_called() -> None:
    router = make_router(auth=Auth(api_keys=(("ci", KEY), ("other", "another-key-altogether"))))

    @router.add_route("/queued", queue_size=5)
    def queued(text: str) -> str:
        return text

    urls: list[str] = []
    with serve_grpc(router, urls=urls) as address:
        client = Client(address)
        request = client.request("queued", ("text", "BYTES", [1], struct.pack("<I", 0)))
        assert client.call("ModelInfer", message=request, metadata=BEARER).outputs
        client.channel.close()

        def jobs(key: str) -> list[Any]:
            answer = httpx.get(f"{urls[0]}/jobs", headers={"authorization": f"Bearer {key}"})
            found: list[Any] = answer.raise_for_status().json()["jobs"]
            return found

        assert [job["endpoint"] for job in jobs(KEY)] == ["queued"]
        assert jobs("another-key-altogether") == []


def test_certificate_is_that_of_http(connect: Callable[..., Client], tmp_path: Path) -> None:
    certificate, key = _make_certificate(tmp_path)
    held = Held()
    router = make_router(held)
    plain = connect(router, tls_cert=certificate, tls_key=key)
    assert router.grpc_address is not None
    credentials = grpc.ssl_channel_credentials(certificate.read_bytes())
    secure = Client(router.grpc_address.replace("127.0.0.1", "localhost"), credentials)
    assert _infer(secure).outputs
    secure.channel.close()
    # who does not encrypt is not understood
    assert plain.refusal("ServerLive", timeout=5).code() is grpc.StatusCode.UNAVAILABLE


def _make_certificate(folder: Path) -> tuple[Path, Path]:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    certificate, private = folder / "server.pem", folder / "server.key"
    certificate.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    private.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return certificate, private
