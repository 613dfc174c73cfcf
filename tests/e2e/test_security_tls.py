"""Everything over TLS: the server by files, the client by the certificates that it trusts."""

from __future__ import annotations

import datetime
import ipaddress
import os
import re
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import numpy as np
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

import socaity
from socaity.exceptions import ConfigurationError, ConnectError, TransportError
from socaity_server import Auth, SocaityRouter, listening
from socaity_server.tls import TLSFiles

DEADLINE = 20
KEY = "a-key-of-the-tests-0001"


class Files(NamedTuple):
    """A root that a client trusts, and what it has signed for 127.0.0.1."""

    root: Path
    certificate: Path
    key: Path
    locked: Path


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    folder = tmp_path_factory.mktemp("tls")
    now = datetime.datetime.now(datetime.UTC)
    root_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())

    def name(text: str) -> x509.Name:
        return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, text)])

    def builder(subject: str, public_key: Any) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .subject_name(name(subject))
            .issuer_name(name("root"))
            .public_key(public_key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(minutes=1))
            .not_valid_after(now + datetime.timedelta(days=1))
        )

    identifier = x509.SubjectKeyIdentifier.from_public_key(root_key.public_key())
    root = (
        builder("root", root_key.public_key())
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(
            x509.KeyUsage(False, False, False, False, False, True, True, False, False), critical=True
        )
        .add_extension(identifier, critical=False)
        .sign(root_key, hashes.SHA256())
    )
    places = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    certificate = (
        builder("service", key.public_key())
        .add_extension(places, critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier), critical=False
        )
        .sign(root_key, hashes.SHA256())
    )
    made = Files(*(folder / name for name in ("root.pem", "certificate.pem", "key.pem", "locked.pem")))
    made.root.write_bytes(root.public_bytes(serialization.Encoding.PEM))
    made.certificate.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    for path, lock in (
        (made.key, serialization.NoEncryption()),
        (made.locked, serialization.BestAvailableEncryption(b"hunter2")),
    ):
        path.write_bytes(
            key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, lock)
        )
    return made


@contextmanager
def serving(router: SocaityRouter, files: Files) -> Iterator[str]:
    """The address of `router` over TLS."""
    ready = threading.Event()
    address: list[str] = []

    def on_ready(url: str) -> None:
        address.append(url)
        ready.set()

    server = router.server(port=0, on_ready=on_ready, tls_cert=files.certificate, tls_key=files.key)
    thread = threading.Thread(target=server.run, name="tls-server", daemon=True)
    thread.start()
    try:
        assert ready.wait(DEADLINE)
        yield address[0]
    finally:
        server.should_exit = True
        thread.join(DEADLINE)
    assert not thread.is_alive()


@pytest.fixture(scope="module")
def served(files: Files) -> Iterator[str]:
    router = SocaityRouter(auth=Auth(api_keys={"program": KEY}), grace=1.0)

    @router.add_route("/greet", queue_size=10)
    def greet(name: str) -> str:
        return f"hello {name}"

    @router.add_route("/double", max_batch_size=4)
    def double(x: np.ndarray) -> np.ndarray:
        return x * 2

    with serving(router, files) as url:
        yield url


@pytest.fixture
def trusting(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(files.root))


@pytest.mark.usefixtures("trusting")
@pytest.mark.parametrize("wire", ["https", "wss", "http"])
def test_client_talks_over_tls(served: str, wire: str) -> None:
    assert served.startswith("https://")
    url = served.replace("https", "wss") if wire == "wss" else served
    transport = "http" if wire == "http" else None
    with socaity.connect(url, api_key=KEY, transport=transport, progress=False) as service:
        assert service.greet("you").result(timeout=DEADLINE) == "hello you"
        assert service.double(np.array([2.0])).result(timeout=DEADLINE) == [4.0]


@pytest.mark.parametrize("wire", ["https", "wss", "http"])
def test_client_does_not_trust_everybody(served: str, wire: str) -> None:
    url = served.replace("https", "wss") if wire == "wss" else served
    with pytest.raises(ConnectError, match=r"(?i)certificate"):
        with socaity.connect(
            url, api_key=KEY, transport="http" if wire == "http" else None, retry=1, progress=False
        ):
            pass


@pytest.mark.parametrize(
    ("scheme", "content"),
    [
        ("https", None),
        ("oip+https", None),
        ("oip+grpcs", None),
        ("https", "no certificate"),
        ("oip+https", "no certificate"),
    ],
)
def test_certificates_that_cannot_be_read_are_named(
    served: str, scheme: str, content: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "roots.pem"
    if content is not None:
        file.write_text(content)
    monkeypatch.setenv("SSL_CERT_FILE", str(file))
    with pytest.raises(ConfigurationError, match=f"SSL_CERT_FILE names {re.escape(str(file))}, which cannot"):
        with socaity.connect(served.replace("https", scheme, 1), api_key=KEY, progress=False):
            pass


@pytest.mark.parametrize("scheme", ["http", "oip+http"])
def test_client_without_tls_is_told_about_https(served: str, scheme: str) -> None:
    with pytest.raises(
        TransportError, match=r"broke: .* Where it speaks TLS, its address begins with https://"
    ):
        with socaity.connect(served.replace("https", scheme, 1), api_key=KEY, retry=1, progress=False):
            pass


def test_models_answer_over_tls_as_without(served: str, files: Files) -> None:
    context = ssl.create_default_context(cafile=str(files.root))
    with httpx.Client(base_url=served, verify=context, headers={"Authorization": f"Bearer {KEY}"}) as client:
        assert client.post("/double", json={"x": [1.0]}).json() == [2.0]
        assert client.get("/health").status_code == 200


def test_handshake_that_stops_is_not_waited_for(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listening, "_HANDSHAKE_SECONDS", 0.1)
    with serving(SocaityRouter(grace=1.0), files) as url:
        with socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2])), timeout=DEADLINE) as silent:
            with suppress(ConnectionError):
                assert silent.recv(1) == b""  # closed


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends them")
def test_client_that_takes_nothing_of_an_answer_is_cut_off(
    files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listening, "_TAKING_SECONDS", 0.3)
    monkeypatch.setenv("SOCAITY_MAX_CONNECTIONS", "1")
    router = SocaityRouter(grace=1.0)

    @router.add_route("/blow", methods=["GET"])
    def blow() -> str:
        return "x" * 32_000_000

    context = ssl.create_default_context(cafile=str(files.root))
    with serving(router, files) as url:
        place = ("127.0.0.1", int(url.rpartition(":")[2]))

        @contextmanager
        def asking(path: str, buffer: int) -> Iterator[bytes]:
            with socket.socket() as plain:
                plain.settimeout(DEADLINE)
                plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
                plain.connect(place)
                with context.wrap_socket(plain, server_hostname="127.0.0.1") as secured:
                    secured.sendall(b"GET %s HTTP/1.1\r\nHost: localhost\r\n\r\n" % path.encode())
                    yield secured.recv(15)

        with asking("/blow", 4096) as begun:
            assert begun == b"HTTP/1.1 200 OK"
            ends = time.monotonic() + DEADLINE
            answer = b""
            while answer != begun:  # as soon as it is the only one
                assert time.monotonic() < ends, "the answer is kept"
                with suppress(OSError), asking("/health", 65_536) as answer:
                    pass


def test_port_that_is_taken_is_said_with_tls_too(files: Files) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        server = SocaityRouter(grace=1.0).server(
            port=other.getsockname()[1], tls_cert=files.certificate, tls_key=files.key, log_level="critical"
        )
        with pytest.raises(SystemExit):
            server.run()


def test_old_versions_are_refused(served: str, files: Files) -> None:
    context = ssl.create_default_context(cafile=str(files.root))
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
    port = int(served.rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port), timeout=DEADLINE) as plain:
        with pytest.raises(ssl.SSLError):
            context.wrap_socket(plain, server_hostname="127.0.0.1")


def test_login_gives_a_secure_cookie(served: str, files: Files) -> None:
    context = ssl.create_default_context(cafile=str(files.root))
    answer = httpx.post(f"{served}/login", data={"token": KEY}, headers={"Origin": served}, verify=context)
    assert answer.status_code == 303
    assert "; Secure" in answer.headers["set-cookie"]


@pytest.mark.parametrize(
    ("certificate", "key", "message"),
    [
        ("certificate", None, "comes without its key"),
        (None, "key", "a key for TLS and no certificate"),
        ("certificate", "locked", "locked with a password; unlock it: openssl pkey"),
        ("root", "key", "the key has to be that of the certificate"),
        ("key", "certificate", "TLS cannot be served with"),
        ("missing", "key", "There is no file '/there/is/none'"),
        ("certificate", "missing", "There is no file '/there/is/none'"),
    ],
)
def test_files_that_do_not_fit_are_said(
    files: Files, certificate: str | None, key: str | None, message: str
) -> None:
    given = {**files._asdict(), "missing": Path("/there/is/none")}
    with pytest.raises(ConfigurationError, match=message):
        TLSFiles.of(given.get(str(certificate)), given.get(str(key)))


@pytest.mark.parametrize("by", ["options", "environment"])
def test_command_serves_and_calls_over_tls(files: Files, by: str, tmp_path: Path) -> None:
    (tmp_path / "service.py").write_text(
        "from socaity_server import SocaityRouter\nrouter = SocaityRouter()\n"
        "@router.add_route('/greet')\ndef greet(name: str) -> str:\n    return f'hello {name}'\n"
    )
    options = ["--tls-cert", str(files.certificate), "--tls-key", str(files.key)] if by == "options" else []
    given = {"SOCAITY_TLS_CERT": str(files.certificate), "SOCAITY_TLS_KEY": str(files.key)}
    environment = {**os.environ, "AUTH_ENABLED": "on", "SOCAITY_API_KEYS": f"program:{KEY}"}
    server = subprocess.Popen(
        [sys.executable, "-m", "socaity.cli", "serve", "service:router", "--port", "0", *options],
        cwd=tmp_path,
        env=environment | (given if by == "environment" else {}),
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert server.stderr is not None
        said = server.stderr.readline()
        found = re.search(r"at (https://127\.0\.0\.1:\d+) \(documentation: https:", said)
        assert found is not None, said
        url = found.group(1)
        trusting = {**os.environ, "SSL_CERT_FILE": str(files.root), "SOCAITY_API_KEY": KEY}
        for command, expected in (
            (["call", url, "greet", "name=you"], "hello you"),
            (["call", "--api-key", KEY, url, "greet", "name=you"], "hello you"),
            (["endpoints", url], "greet"),
            (["jobs", "--url", url], "greet"),
            (["top", url, "--once"], "greet  succeeded"),
        ):
            done = subprocess.run(
                [sys.executable, "-m", "socaity.cli", *command],
                env=trusting,
                capture_output=True,
                text=True,
                timeout=DEADLINE,
            )
            assert (done.returncode, expected in done.stdout) == (0, True), (
                command,
                done.stdout,
                done.stderr,
            )
        wrong = {**trusting, "SOCAITY_API_KEY": "wrong"}
        for command, expected in (
            (["call", url, "greet", "name=you"], "not known here"),
            (["top", url, "--once"], "refused the API key or token that was given"),
        ):
            done = subprocess.run(
                [sys.executable, "-m", "socaity.cli", *command],
                env=wrong,
                capture_output=True,
                text=True,
                timeout=DEADLINE,
            )
            assert done.returncode == 1, (done.stdout, done.stderr)
            assert expected in done.stderr
    finally:
        server.kill()
        server.communicate(timeout=DEADLINE)


def test_certificate_without_its_key_says_which_option_is_missing(files: Files, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"comes without its key.*--tls-key, or SOCAITY_TLS_KEY"):
        TLSFiles.of(files.certificate, None)
    both = tmp_path / "both.pem"
    both.write_bytes(files.certificate.read_bytes() + files.key.read_bytes())
    assert TLSFiles.of(both, None) is not None
