"""Uploads by hash: asked for first, sent in pieces, once."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Iterator
from typing import Any

import pytest

from socaity.exceptions import InvalidInputError, ServerError, TransportError
from socaity.transport import Target
from socaity_server import SocaityRouter
from socaity_transports._blobs import BlobUploads
from socaity_transports.auto import DetectingTransport
from socaity_transports.http import HTTPTransport
from tests.server.conftest import serve

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


class Bytes:
    """Satisfies `socaity.transport.Blob`."""

    def __init__(self, data: bytes, *, size: int | None = None, sha256: str | None = None) -> None:
        self.data = data
        self.size = len(data) if size is None else size
        self.sha256 = sha256 or hashlib.sha256(data).hexdigest()
        self.reads = 0

    def pieces(self) -> Iterator[bytes]:
        self.reads += 1
        for at in range(0, len(self.data), 2**18):
            yield self.data[at : at + 2**18]


@pytest.fixture(scope="module")
def service() -> Iterator[tuple[str, SocaityRouter]]:
    router = SocaityRouter(max_blob=4 * 2**20)

    @router.add_route("/length")
    def length(data: bytes) -> int:
        return len(data)

    with serve(router) as url:
        yield url, router


def ignore(sent: int) -> None:
    pass


async def test_the_same_bytes_travel_once(service: tuple[str, SocaityRouter]) -> None:
    url, router = service
    blob = Bytes(b"once" * 2**18)
    told: list[int] = []
    uploads = BlobUploads(Target(url))
    await uploads.upload(blob, progress=told.append)
    assert told == [2**18, 2**19, 3 * 2**18, 2**20, 2**20]
    assert router.dataplane.blobs.size(blob.sha256) == blob.size
    again: list[int] = []
    await uploads.upload(blob, progress=again.append)
    assert (again, blob.reads) == ([2**20], 1)
    await uploads.aclose()


@pytest.mark.parametrize("path", ["", "/ws", "/ws?x=1"])
async def test_the_blobs_of_a_socket_are_beside_it(service: tuple[str, SocaityRouter], path: str) -> None:
    url, router = service
    blob = Bytes(path.encode() + b"socket" * 1000)
    uploads = BlobUploads(Target("ws" + url.removeprefix("http") + path))
    await uploads.upload(blob, progress=ignore)
    assert router.dataplane.blobs.size(blob.sha256) == blob.size
    await uploads.aclose()


async def test_the_blobs_of_an_app_are_in_memory(service: tuple[str, SocaityRouter]) -> None:
    router = SocaityRouter()
    blob = Bytes(b"memory" * 1000)
    await router.dataplane.start()
    uploads = BlobUploads(Target("inprocess://", app=router.app))
    await uploads.upload(blob, progress=ignore)
    assert router.dataplane.blobs.size(blob.sha256) == blob.size
    await uploads.aclose()
    await router.dataplane.aclose(grace=0.0)


@pytest.mark.parametrize("transport", [HTTPTransport, DetectingTransport])
async def test_transports_of_our_server_upload(service: tuple[str, SocaityRouter], transport: Any) -> None:
    url, router = service
    wire = transport.open(Target(url))
    blob = Bytes(transport.__name__.encode() * 1000)
    await wire.upload(blob, progress=ignore)
    assert router.dataplane.blobs.size(blob.sha256) == blob.size
    await wire.aclose()


async def test_too_large_a_blob_is_refused_with_the_limit(service: tuple[str, SocaityRouter]) -> None:
    uploads = BlobUploads(Target(service[0]))
    with pytest.raises(InvalidInputError, match=str(4 * 2**20)) as caught:
        await uploads.upload(Bytes(b"x" * (5 * 2**20)), progress=ignore)
    assert (caught.value.status, caught.value.code) == (413, "too_large")
    await uploads.aclose()


async def test_bytes_of_another_hash_are_refused(service: tuple[str, SocaityRouter]) -> None:
    uploads = BlobUploads(Target(service[0]))
    with pytest.raises(InvalidInputError) as caught:
        await uploads.upload(Bytes(b"x" * 100, sha256="0" * 64), progress=ignore)
    assert caught.value.code == "hash_mismatch"
    assert service[1].dataplane.blobs.size("0" * 64) is None
    await uploads.aclose()


@pytest.mark.parametrize("size", [99, 101])
async def test_a_file_that_changes_while_it_is_sent_is_no_upload(
    service: tuple[str, SocaityRouter], size: int
) -> None:
    blob = Bytes(b"changed" * 100, size=700 + size - 100)
    uploads = BlobUploads(Target(service[0]))
    with pytest.raises(TransportError, match="changed while it was sent"):
        await uploads.upload(blob, progress=ignore)
    assert service[1].dataplane.blobs.size(blob.sha256) is None
    await uploads.aclose()


async def test_a_disk_that_fails_is_told(service: tuple[str, SocaityRouter]) -> None:
    class Broken(Bytes):
        def pieces(self) -> Iterator[bytes]:
            yield self.data[:10]
            raise OSError(5, "Input/output error")

    uploads = BlobUploads(Target(service[0]))
    with pytest.raises(OSError, match="Input/output"):
        await uploads.upload(Broken(b"x" * 100), progress=ignore)
    await uploads.aclose()


async def test_a_cancelled_upload_stops_reading(service: tuple[str, SocaityRouter]) -> None:
    blob = Bytes(b"y" * (3 * 2**20))
    uploads = BlobUploads(Target(service[0]))
    begun = asyncio.Event()
    upload = asyncio.create_task(uploads.upload(blob, progress=lambda _: begun.set()))
    await begun.wait()
    upload.cancel()
    with pytest.raises(asyncio.CancelledError):
        await upload
    assert service[1].dataplane.blobs.size(blob.sha256) is None
    await uploads.upload(blob, progress=ignore)
    assert service[1].dataplane.blobs.size(blob.sha256) == blob.size
    await uploads.aclose()


async def test_a_service_of_others_has_no_uploads() -> None:
    from fastapi import FastAPI

    app = FastAPI()

    @app.get("/hello")
    def hello() -> str:
        return "hello"

    wire = HTTPTransport.open(Target("http://inprocess", app=app))
    with pytest.raises(NotImplementedError, match="no uploads"):
        await wire.upload(Bytes(b"x"), progress=ignore)
    await wire.aclose()


async def test_a_server_that_is_away_or_refuses_says_so() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 503, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    uploads = BlobUploads(Target("http://inprocess", app=app))
    with pytest.raises(ServerError):
        await uploads.upload(Bytes(b"x"), progress=ignore)
    await uploads.aclose()
    away = BlobUploads(Target("http://127.0.0.1:1"))
    with pytest.raises(TransportError):
        await away.upload(Bytes(b"x"), progress=ignore)
    await away.aclose()
