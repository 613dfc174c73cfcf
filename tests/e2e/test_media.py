"""Media from a client to a server and back: over every wire, uploaded once, and whole or not at all."""

from __future__ import annotations

import asyncio
import http.server
import io
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import socaity
from socaity import InvalidInputError
from socaity._media import INLINE
from socaity.protocol.audio import Audio
from socaity.protocol.media import Media
from socaity_server import SocaityRouter
from tests.server.conftest import serve

from .servers import CuttingProxy

Image = pytest.importorskip("PIL.Image")
pd = pytest.importorskip("pandas")
torch = pytest.importorskip("torch")

SOON = 30.0


class Store:
    """Counts what is uploaded to a router, and can hold an upload back."""

    def __init__(self, router: SocaityRouter) -> None:
        self.blobs: Any = router.dataplane.blobs
        self.uploads: list[str] = []
        self.at_once = self.most_at_once = 0
        self.gate: asyncio.Event | None = None
        self.held = threading.Event()
        self._put = self.blobs.put
        self.blobs.put = self.put

    async def put(self, sha256: str, chunks: Any, *, max_size: int) -> int:
        self.uploads.append(sha256)
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            if self.gate is not None:
                self.held.set()
                await self.gate.wait()
            return int(await self._put(sha256, chunks, max_size=max_size))
        finally:
            self.at_once -= 1


def media_router() -> SocaityRouter:
    router = SocaityRouter(max_body=16 * 2**20, max_blob=8 * 2**20)

    @router.add_route("/turn", queue_size=100)
    def turn(image: Image.Image) -> Image.Image:
        return image.transpose(Image.Transpose.TRANSPOSE)

    @router.add_route("/copies")
    def copies(images: list[Image.Image], count: int = 1) -> list[Image.Image]:
        return images * count

    @router.add_route("/each")
    def each(images: list[Image.Image]) -> Iterator[Image.Image]:
        yield from images

    @router.add_route("/louder")
    def louder(audio: Audio) -> Audio:
        return Audio(audio.samples * 2, audio.sample_rate)

    @router.add_route("/head")
    def head(frame: pd.DataFrame, rows: int = 2) -> pd.DataFrame:
        return frame.head(rows)

    @router.add_route("/measure")
    def measure(path: Path) -> dict[str, Any]:
        return {"name": path.name, "size": path.stat().st_size}

    @router.add_route("/upper")
    def upper(path: Path) -> Path:
        written = path.with_name("upper.txt")
        written.write_bytes(path.read_bytes().upper())
        return written

    @router.add_route("/double")
    def double(x: torch.Tensor) -> torch.Tensor:
        return x * 2

    @router.add_route("/reverse")
    def reverse(data: bytes) -> bytes:
        return data[::-1]

    @router.add_route("/untyped")
    def untyped(value: Any = None) -> Any:
        return {"picture": Image.new("L", (3, 2)), "value": value}

    return router


@pytest.fixture(scope="module")
def server() -> Iterator[tuple[str, SocaityRouter, Store]]:
    router = media_router()
    with serve(router) as url:
        yield url, router, Store(router)


@pytest.fixture(scope="module", params=["socket", "http", "in process"])
def service(
    request: pytest.FixtureRequest, server: tuple[str, SocaityRouter, Store]
) -> Iterator[socaity.Service]:
    if request.param == "in process":
        target: Any = media_router()
        options = {}
    else:
        target = server[0]
        options: dict[str, Any] = {"transport": "http"} if request.param == "http" else {}
    with socaity.connect(target, **options, progress=False) as service:
        yield service


@pytest.fixture
def fresh(server: tuple[str, SocaityRouter, Store]) -> Iterator[tuple[socaity.Service, Store]]:
    """A client that has uploaded nothing, and the store, which counts from here."""
    server[2].uploads.clear()
    server[2].most_at_once = 0
    server[2].held.clear()
    with socaity.connect(server[0], progress=False) as service:
        yield service, server[2]


def noise(seed: int = 0, height: int = 900, width: int = 700) -> Any:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


# -- every kind over every wire ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(9, 6), (900, 700)])
def test_pictures_go_and_come_back_the_same(
    service: socaity.Service, size: tuple[int, int], tmp_path: Path
) -> None:
    pixels = noise(1, *size)
    image = Image.fromarray(pixels)
    image.save(tmp_path / "a.png")
    with (tmp_path / "a.png").open("rb") as file:
        forms = [image, pixels, torch.tensor(pixels), tmp_path / "a.png", str(tmp_path / "a.png"), file]
        jobs = [service.turn(form) for form in forms]
    for found in socaity.gather(*jobs).result(SOON):
        assert np.array_equal(np.asarray(found), pixels.transpose(1, 0, 2))


def test_lists_and_streams_of_pictures(service: socaity.Service) -> None:
    large, small = Image.fromarray(noise(2)), Image.new("RGB", (3, 2))
    found = service.copies([small, large, small], count=2).result(SOON)
    assert [one.size for one in found] == [(3, 2), (700, 900), (3, 2)] * 2
    assert [one.size for one in service.each(images=[large, small])] == [(700, 900), (3, 2)]


def test_sound_tables_files_tensors_and_bytes(service: socaity.Service, tmp_path: Path) -> None:
    sound = service.louder(Audio(np.full(8000, 0.25), 16_000)).result(SOON)
    assert (sound.sample_rate, len(sound.samples)) == (16_000, 8000)
    assert np.allclose(sound.samples, 0.5, atol=1e-3)
    for rows in (3, 400_000):
        frame = pd.DataFrame({"a": np.arange(rows), "t": pd.date_range("2020", periods=rows, freq="s")})
        pd.testing.assert_frame_equal(service.head(frame, rows=rows).result(SOON), frame)
    data = os.urandom(3 * 2**20)
    (tmp_path / "a.dat").write_bytes(data)
    assert service.measure(tmp_path / "a.dat").result(SOON) == {"name": "a.dat", "size": len(data)}
    assert service.upper(b"hello").result(SOON) == Media("text/plain", b"HELLO", "upper.txt")
    assert service.reverse(data).result(SOON) == data[::-1]
    tensor = service.double(torch.ones(2, 3)).result(SOON)
    assert (tensor.dtype.name, tensor.tolist()) == ("float32", [[2.0] * 3] * 2)
    assert service.untyped().result(SOON)["picture"].size == (3, 2)


def test_results_are_saved(service: socaity.Service, tmp_path: Path) -> None:
    assert service.turn(noise(3, 9, 6)).save(tmp_path / "a") == tmp_path / "a.png"
    found = service.copies([noise(3, 9, 6)], count=2).save(tmp_path / "out")
    assert [path.name for path in found] == ["0.png", "1.png"]
    with pytest.raises(FileExistsError):
        service.turn(noise(3, 9, 6)).save(tmp_path / "a.png")


def test_what_is_broken_fails_the_job_with_the_parameter(service: socaity.Service) -> None:
    buffer = io.BytesIO()
    Image.fromarray(noise()).save(buffer, "PNG")
    for cut in (100_000, INLINE + 100_000):
        error = service.turn(buffer.getvalue()[:cut]).exception(SOON)
        assert isinstance(error, InvalidInputError)
        assert (error.status, error.parameter) == (422, "image")
        assert "truncated" in str(error)


@pytest.mark.anyio
async def test_large_media_can_be_awaited(fresh: tuple[socaity.Service, Store]) -> None:
    found = await fresh[0].turn(Image.fromarray(noise(4)))
    assert found.size == (900, 700)


# -- once ----------------------------------------------------------------------------------------------------------------


def test_the_same_bytes_travel_once(fresh: tuple[socaity.Service, Store]) -> None:
    service, store = fresh
    pixels = noise(10)
    jobs = [service.turn(pixels) for _ in range(10)] + [service.copies([pixels] * 3)]
    socaity.gather(*jobs).result(SOON)
    service.turn(pixels).result(SOON)
    with socaity.connect(service._target.url, progress=False) as other:
        other.turn(pixels).result(SOON)
    assert len(store.uploads) == 1


def test_several_files_travel_side_by_side(fresh: tuple[socaity.Service, Store]) -> None:
    service, store = fresh
    found = service.copies([noise(seed) for seed in range(20, 26)]).result(SOON)
    assert len(found) == 6
    assert len(store.uploads) == 6
    assert store.most_at_once > 1


def test_small_media_travel_in_the_call(fresh: tuple[socaity.Service, Store]) -> None:
    service, store = fresh
    service.reverse(b"x" * INLINE).result(SOON)
    service.turn(noise(30, 90, 70)).result(SOON)
    assert not store.uploads


@pytest.mark.parametrize("endpoint", ["turn", "copies"])
def test_what_the_service_has_lost_is_uploaded_again(
    fresh: tuple[socaity.Service, Store], endpoint: str
) -> None:
    service, store = fresh
    pixels = noise(31 + len(endpoint))
    value = pixels if endpoint == "turn" else [pixels]
    service[endpoint](value).result(SOON)
    (sha256,) = store.uploads
    store.blobs._forget(sha256)
    assert service[endpoint](value).exception(SOON) is None
    assert store.uploads == [sha256, sha256]


# -- what goes wrong -------------------------------------------------------------------------------------------------------


def test_more_than_the_service_takes_is_refused_with_the_limit(fresh: tuple[socaity.Service, Store]) -> None:
    service, _ = fresh
    error = service.reverse(os.urandom(9 * 2**20)).exception(SOON)
    assert isinstance(error, InvalidInputError)
    assert (error.status, str(8 * 2**20) in str(error)) == (413, True)


def test_an_upload_shows_how_far_it_is_and_can_be_cancelled(
    server: tuple[str, SocaityRouter, Store], fresh: tuple[socaity.Service, Store]
) -> None:
    service, store = fresh
    loop = server[1].dataplane._loop
    assert loop is not None
    store.gate = asyncio.Event()
    told = threading.Event()

    class Shown:
        def update(self, job: Any) -> None:
            if "uploading" in (job.progress.message or ""):
                told.set()

    try:
        job = service.reverse(os.urandom(6 * 2**20))
        job._display = Shown()
        assert store.held.wait(SOON)
        assert told.wait(SOON)
        assert 0 < (job.progress.fraction or 0) < 1
        assert job.status == "queued"
        assert job.cancel()
        assert isinstance(job.exception(SOON), socaity.JobCancelled)
    finally:
        loop.call_soon_threadsafe(store.gate.set)
        store.gate = None


def test_a_closed_service_ends_the_calls_whose_media_are_on_the_way(
    server: tuple[str, SocaityRouter, Store],
) -> None:
    store, loop = server[2], server[1].dataplane._loop
    assert loop is not None
    store.gate = asyncio.Event()
    store.held.clear()
    try:
        service = socaity.connect(server[0], progress=False)
        job = service.reverse(os.urandom(6 * 2**20))
        assert store.held.wait(SOON)
        service.close()
        assert job.exception(SOON) is not None
    finally:
        loop.call_soon_threadsafe(store.gate.set)
        store.gate = None


def test_a_file_that_goes_away_fails_its_call_alone(
    fresh: tuple[socaity.Service, Store], tmp_path: Path
) -> None:
    service, _ = fresh
    with pytest.raises(InvalidInputError, match="there is no file"):
        service.turn("nowhere.png")
    group = service.measure.map([tmp_path / "none.dat", b"abc"])
    lost, found = group.result(SOON, return_exceptions=True)
    assert isinstance(lost, InvalidInputError)
    assert found == {"name": "file.bin", "size": 3}


def test_an_upload_that_breaks_off_is_repeated(server: tuple[str, SocaityRouter, Store]) -> None:
    data = os.urandom(5 * 2**20)
    port = int(server[0].rpartition(":")[2])
    with CuttingProxy(port) as proxy:
        with socaity.connect(f"http://127.0.0.1:{proxy.port}", transport="http", progress=False) as service:
            _ = service.endpoints
            proxy.cut_after(1)
            proxy.cut()
            assert service.reverse(data).result(SOON) == data[::-1]


# -- URLs ------------------------------------------------------------------------------------------------------------------


class Web(http.server.BaseHTTPRequestHandler):
    """`/picture` is a PNG, `/cut` breaks off, `/away` leads to a file, everything else is not there."""

    data = b""
    headers_seen: list[dict[str, str]] = []  # noqa: RUF012 - what the class answered

    def do_GET(self) -> None:
        self.headers_seen.append(dict(self.headers))
        if self.path.startswith("/away"):
            self.send_response(302)
            self.send_header("Location", "file:///etc/passwd")
            self.end_headers()
            return
        if not self.path.startswith(("/picture", "/cut")):
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.data)))
        self.end_headers()
        self.wfile.write(self.data[:1000] if self.path == "/cut" else self.data)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture(scope="module")
def web() -> Iterator[str]:
    buffer = io.BytesIO()
    Image.fromarray(noise(5)).save(buffer, "PNG")
    Web.data = buffer.getvalue()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Web)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join(SOON)


def test_the_client_fetches_a_url_and_sends_the_bytes(
    server: tuple[str, SocaityRouter, Store], web: str
) -> None:
    Web.headers_seen.clear()
    with socaity.connect(server[0], api_key="secret", progress=False) as service:
        assert service.turn(f"{web}/picture.png?x=1").result(SOON).size == (900, 700)
        assert service.measure(f"{web}/picture.png").result(SOON)["name"] == "picture.png"
    assert "secret" not in str(Web.headers_seen)


@pytest.mark.parametrize(("path", "told"), [("/none", "404"), ("/cut", "broke off"), ("/away", "file")])
def test_a_url_that_cannot_be_fetched_leaves_nothing(
    fresh: tuple[socaity.Service, Store],
    web: str,
    path: str,
    told: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    error = fresh[0].turn(web + path).exception(SOON)
    assert isinstance(error, InvalidInputError)
    assert told in str(error)
    assert not os.listdir(tmp_path)
