"""Pictures, sound, tables and files over HTTP: taken by annotation, given back as asked for, refused when they are broken."""

from __future__ import annotations

import base64
import io
import json
import os
import struct
import wave
import zlib
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from socaity.protocol.audio import Audio
from socaity.protocol.media import Media
from socaity.protocol.messagepack import packb, unpackb
from socaity_server import SocaityRouter

from .conftest import open_client

Image = pytest.importorskip("PIL.Image")
pd = pytest.importorskip("pandas")
torch = pytest.importorskip("torch")

pytestmark = pytest.mark.anyio
MSGPACK = "application/vnd.socaity+msgpack"


def png(width: int = 6, height: int = 4, colour: str = "red") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (width, height), colour).save(buffer, "PNG")
    return buffer.getvalue()


def wav(frames: int = 100, rate: int = 8000) -> bytes:
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(b"\0\x40" * frames)
    return buffer.getvalue()


def bomb(width: int, height: int) -> bytes:
    """A PNG that claims to be large and has almost no data."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def router_of(seen: list[Any]) -> SocaityRouter:
    router = SocaityRouter()

    @router.add_route("/flip")
    def flip(image: Image.Image) -> Image.Image:
        seen.append(image)
        return image.transpose(Image.Transpose.TRANSPOSE)

    @router.add_route("/count", queue_size=10)
    async def count(images: list[Image.Image], factor: int = 1) -> int:
        return len(images) * factor

    @router.add_route("/each")
    async def each(images: list[Image.Image]) -> AsyncIterator[Image.Image]:
        for image in images:
            yield image

    @router.add_route("/turn", queue_size=10)
    def turn(image: Image.Image | None = None) -> Image.Image | None:
        return image and image.transpose(Image.Transpose.TRANSPOSE)

    @router.add_route("/louder")
    async def louder(audio: Audio) -> Audio:
        return Audio(audio.samples * 2, audio.sample_rate)

    @router.add_route("/head")
    def head(frame: pd.DataFrame) -> pd.DataFrame:
        return frame.head(2)

    @router.add_route("/look")
    def look(path: Path) -> dict[str, Any]:
        seen.append(path)
        return {"name": path.name, "data": path.read_bytes()}

    @router.add_route("/fail")
    def fail(path: Path) -> None:
        seen.append(path)
        raise RuntimeError("no")

    @router.add_route("/lines")
    def lines(path: Path) -> Iterator[str]:
        seen.append(path)
        yield from path.read_text().splitlines()

    @router.add_route("/upper")
    def upper(path: Path) -> Path:
        written = path.with_name("upper.txt")
        written.write_bytes(path.read_bytes().upper())
        return written

    @router.add_route("/lost")
    def lost() -> Path:
        return Path("/nowhere/at/all.png")

    @router.add_route("/where")
    def where() -> dict[str, Any]:
        return {"path": Path("/nowhere/at/all.png")}

    @router.add_route("/double")
    def double(x: torch.Tensor) -> torch.Tensor:
        return (x * 2).to(torch.bfloat16).requires_grad_()

    @router.add_route("/total")
    def total(x: np.ndarray) -> float:
        return float(x.sum())

    @router.add_route("/reverse")
    def reverse(data: bytes) -> bytes:
        return data[::-1]

    @router.add_route("/jpeg")
    def jpeg() -> Media:
        return Media("image/jpeg", b"\xff\xd8\xff", "a.jpg")

    @router.add_route("/type")
    def type_of(file: Media) -> list[Any]:
        return [file.media_type, file.name, len(file.data)]

    return router


@pytest.fixture
def seen() -> list[Any]:
    return []


@pytest.fixture
async def client(seen: list[Any]) -> AsyncIterator[httpx.AsyncClient]:
    async with open_client(router_of(seen)) as client:
        yield client


def as_file(name: str, data: bytes, kind: str = "application/octet-stream") -> Any:
    return {"files": {name: ("x", data, kind)}}


async def test_a_picture_comes_as_a_file_base64_a_data_url_or_a_map(client: httpx.AsyncClient) -> None:
    data = png()
    text = base64.b64encode(data).decode()
    bodies: list[dict[str, Any]] = [
        as_file("image", data, "image/png"),
        {"json": {"image": text}},
        {"json": {"image": f"data:image/png;base64,{text}"}},
        {"json": {"image": {"$media": "image/png", "data": text}}},
        {"content": packb({"image": data}), "headers": {"content-type": MSGPACK}},
        {
            "content": packb({"image": {"$media": "image/png", "data": data, "name": "a.png"}}),
            "headers": {"content-type": MSGPACK},
        },
        {
            "content": packb({"image": np.zeros((4, 6, 3), np.uint8)}),
            "headers": {"content-type": MSGPACK},
        },
    ]
    for body in bodies:
        answer = await client.post("/flip", **body)
        assert answer.status_code == 200, answer.text
        found = Image.open(io.BytesIO(base64.b64decode(answer.json()["data"])))
        assert (answer.json()["$media"], found.size) == ("image/png", (4, 6))


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        ("image/png", "image/png"),
        ("image/*", "image/png"),
        ("image/png, application/json;q=0.5", "image/png"),
        ("image/webp", "application/json"),
        ("*/*", "application/json"),
        ("text/html, image/avif, image/webp, */*;q=0.8", "application/json"),
        ("application/json, image/png;q=0.1", "application/json"),
        ("image/png;q=nonsense", "image/png"),
        (MSGPACK, MSGPACK),
    ],
)
async def test_the_answer_is_the_picture_itself_where_that_is_wanted_most(
    client: httpx.AsyncClient, accept: str, kind: str
) -> None:
    answer = await client.post("/flip", **as_file("image", png()), headers={"accept": accept})
    assert answer.headers["content-type"] == kind
    if kind == "image/png":
        assert Image.open(io.BytesIO(answer.content)).size == (4, 6)
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert "sandbox" in answer.headers["content-security-policy"]


async def test_a_finished_job_can_be_read_as_its_picture(client: httpx.AsyncClient) -> None:
    answer = await client.post("/turn?sync=true", **as_file("image", png()), headers={"accept": "image/png"})
    assert Image.open(io.BytesIO(answer.content)).size == (4, 6)
    again = await client.get(answer.headers["location"], headers={"accept": "image/*"})
    assert again.content == answer.content
    document = await client.get(answer.headers["location"])
    assert document.json()["result"]["$media"] == "image/png"


async def test_pictures_in_lists_and_optional_ones(client: httpx.AsyncClient) -> None:
    files = [("images", ("a.png", png(), "image/png")), ("images", ("b.png", png(), "image/png"))]
    answer = await client.post("/count?sync=true", files=files, data={"factor": "10"})
    assert answer.json()["result"] == 20, answer.text
    assert (await client.post("/turn?sync=true", json={})).json()["result"] is None
    assert (await client.post("/turn?sync=true", json={"image": None})).json()["result"] is None


async def test_a_stream_of_pictures(client: httpx.AsyncClient) -> None:
    images = [base64.b64encode(png(colour=name)).decode() for name in ("red", "blue")]
    answer = await client.post("/each", json={"images": images})
    chunks = [
        json.loads(part.partition("data: ")[2])
        for part in answer.text.split("\n\n")
        if "event: chunk" in part
    ]
    colours = [Image.open(io.BytesIO(base64.b64decode(one["data"]))).getpixel((0, 0)) for one in chunks]
    assert colours == [(255, 0, 0), (0, 0, 255)]


@pytest.mark.parametrize(
    ("image", "told"),
    [
        (png()[:48], "broken"),
        (b"GIF89a", "not a picture"),
        (b"hello", "not a picture"),
        (b"", "empty"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not a picture"),
        (bomb(60_000, 60_000), "too large"),
        (bomb(10_000, 10_000), "too large"),
        (wav(), "got audio/wav"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not a picture"),
    ],
)
async def test_what_is_no_whole_picture_is_refused(
    client: httpx.AsyncClient, seen: list[Any], image: bytes, told: str, recwarn: pytest.WarningsRecorder
) -> None:
    answer = await client.post("/flip", **as_file("image", image))
    assert answer.status_code == 422
    problem = answer.json()
    assert (problem["code"], problem["parameter"], problem["title"]) == (
        "invalid_input",
        "image",
        "InvalidInputError",
    )
    assert told in problem["detail"]
    assert not seen


async def test_a_refusal_shows_nothing_of_the_bytes(client: httpx.AsyncClient) -> None:
    secret = base64.b64encode(b"secret" * 20).decode()
    for value in (secret, f"data:audio/wav;base64,{secret}", {"$media": "x", "data": secret}, 7):
        answer = await client.post("/flip", json={"image": value})
        assert answer.status_code == 422
        assert secret[:8] not in answer.text
    queued = await client.post("/count?sync=true", json={"images": [secret]})
    assert queued.json()["error"]["status"] == 422
    assert secret[:8] not in queued.text


async def test_sound(client: httpx.AsyncClient) -> None:
    answer = await client.post("/louder", **as_file("audio", wav()), headers={"accept": "audio/wav"})
    audio = Audio.from_bytes(answer.content)
    assert (audio.sample_rate, audio.samples.shape) == (8000, (100,))
    assert audio.samples[0] == pytest.approx(1.0, abs=1e-3)


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (wav(frames=0), "no samples"),
        (wav()[:30], "broken"),
        (b"RIFF\0\0\0\0WAVE", "broken"),
        (wav()[:24] + b"\0\0\0\0" + wav()[28:], "broken"),
        (b"ID3\4\0\0\0\0\0\0" + b"\0" * 64, "soundfile"),
        (png(), "got image/png"),
    ],
)
async def test_what_is_no_sound_is_refused(client: httpx.AsyncClient, data: bytes, told: str) -> None:
    if told == "soundfile":
        told = "cannot be read" if _has_soundfile() else "pip install soundfile"
    answer = await client.post("/louder", **as_file("audio", data))
    assert (answer.status_code, told in answer.json()["detail"]) == (422, True), answer.text


def _has_soundfile() -> bool:
    import importlib.util

    return importlib.util.find_spec("soundfile") is not None


async def test_tables_come_as_rows_columns_or_files(client: httpx.AsyncClient) -> None:
    rows = [{"a": 1, "b": "x"}, {"a": 2, "b": "y"}, {"a": 3, "b": "z"}]
    for body in (
        {"json": {"frame": rows}},
        {"json": {"frame": {"a": [1, 2, 3], "b": ["x", "y", "z"]}}},
        {"json": {"frame": "a,b\n1,x\n2,y\n3,z\n"}},
        {"files": {"frame": ("t.csv", b"a,b\n1,x\n2,y\n3,z\n", "text/csv")}},
        {"files": {"frame": ("t.json", json.dumps(rows).encode(), "application/json")}},
    ):
        answer = await client.post("/head", **body)
        assert answer.status_code == 200, answer.text
        assert answer.json()["data"]["values"] == [[1, 2], ["x", "y"]]


@pytest.mark.parametrize(
    "frame",
    [
        7,
        "plain",
        [1, 2],
        {"a": [1], "b": [1, 2]},
        {
            "$media": "application/vnd.socaity.table",
            "data": {"columns": ["a"], "values": [[1], [2]], "types": [None]},
        },
        {
            "$media": "application/vnd.socaity.table",
            "data": {"columns": ["a"], "values": [[1]], "types": ["datetime64[ns, ../../etc/passwd]"]},
        },
        {
            "$media": "application/vnd.socaity.table",
            "data": {"columns": ["a"], "values": [["x"]], "types": ["int64"]},
        },
    ],
)
async def test_what_is_no_table_is_refused(client: httpx.AsyncClient, frame: Any) -> None:
    answer = await client.post("/head", json={"frame": frame})
    assert answer.status_code == 422, answer.text


@pytest.mark.parametrize(
    ("name", "kept"),
    [
        ("cat.csv", "cat.csv"),
        ("../../../etc/passwd", "passwd"),
        ("C:\\Windows\\evil.exe", "evil.exe"),
        (".ssh", "ssh"),
        ("..", "file.bin"),
        ("a" * 300 + ".csv", "a" * 89 + ".csv"),
    ],
)
async def test_a_path_is_a_temporary_file_with_a_harmless_name(
    client: httpx.AsyncClient, seen: list[Any], name: str, kept: str
) -> None:
    answer = await client.post("/look", files={"path": (name, b"hello")})
    assert answer.json() == {"name": kept, "data": base64.b64encode(b"hello").decode()}
    assert not seen[0].exists()
    assert not seen[0].parent.parent.exists()


async def test_temporary_files_go_after_failures_and_streams(
    client: httpx.AsyncClient, seen: list[Any]
) -> None:
    failed = await client.post("/fail", **as_file("path", b"x"))
    assert failed.status_code == 500
    streamed = await client.post("/lines", **as_file("path", b"one\ntwo"))
    assert "two" in streamed.text
    assert len(seen) == 2
    assert not any(path.parent.parent.exists() for path in seen)


async def test_text_is_never_a_path_of_the_server(client: httpx.AsyncClient) -> None:
    answer = await client.post("/look", json={"path": "/etc/passwd"})
    assert answer.status_code == 422
    url = await client.post("/flip", json={"image": "http://127.0.0.1:1/x.png"})
    assert url.status_code == 422


async def test_a_returned_path_is_the_file_where_the_annotation_says_so(client: httpx.AsyncClient) -> None:
    answer = await client.post("/upper", **as_file("path", b"hello"), headers={"accept": "text/plain"})
    assert answer.content == b"HELLO"
    assert "upper.txt" in answer.headers["content-disposition"]
    lost = await client.post("/lost")
    assert (lost.status_code, lost.json()["code"]) == (500, "result_not_serialisable")
    assert (await client.post("/where")).json() == {"path": os.fspath(Path("/nowhere/at/all.png"))}


async def test_tensors_of_torch_keep_their_values(client: httpx.AsyncClient) -> None:
    assert (await client.post("/double", json={"x": [[1, 2.5]]})).json() == [[2.0, 5.0]]
    answer = await client.post(
        "/double",
        content=packb({"x": np.ones((2, 3), np.float32)}),
        headers={"content-type": MSGPACK, "accept": MSGPACK},
    )
    assert unpackb(answer.content).tolist() == [[2.0] * 3] * 2


async def test_arrays_come_as_npy_files_too(client: httpx.AsyncClient) -> None:
    buffer = io.BytesIO()
    np.save(buffer, np.asfortranarray(np.arange(6.0).reshape(2, 3)))
    assert (await client.post("/total", **as_file("x", buffer.getvalue()))).json() == 15.0
    cut = await client.post("/total", **as_file("x", buffer.getvalue()[:-8]))
    assert (cut.status_code, "instead of" in cut.json()["detail"]) == (422, True)
    pickled = io.BytesIO()
    np.save(pickled, np.array([{}], dtype=object), allow_pickle=True)
    assert (await client.post("/total", **as_file("x", pickled.getvalue()))).status_code == 422
    huge = buffer.getvalue().replace(b"(2, 3)", b"(2000000000000, 3)", 1)
    assert (await client.post("/total", **as_file("x", huge))).status_code == 422


async def test_bytes_come_and_go_as_they_are(client: httpx.AsyncClient) -> None:
    answer = await client.post(
        "/reverse", **as_file("data", b"abc"), headers={"accept": "application/octet-stream"}
    )
    assert answer.content == b"cba"
    assert (await client.post("/reverse", json={"data": "data:x/y;base64,YWJj"})).json() == "Y2Jh"


async def test_a_function_may_choose_the_encoding(client: httpx.AsyncClient) -> None:
    assert (await client.post("/jpeg")).json() == {"$media": "image/jpeg", "data": "/9j/", "name": "a.jpg"}


async def test_a_function_may_take_a_file_as_it_came(client: httpx.AsyncClient) -> None:
    answer = await client.post("/type", files={"file": ("a.pdf", b"%PDF-1", "application/pdf")})
    assert answer.json() == ["application/pdf", "a.pdf", 6]
    endpoints = {one["name"]: one for one in (await client.get("/socaity")).json()["endpoints"]}
    assert endpoints["jpeg"]["returns"]["x-media"] == "file"


async def test_an_upload_stands_for_media_by_its_hash(client: httpx.AsyncClient) -> None:
    import hashlib

    data = png()
    sha256 = hashlib.sha256(data).hexdigest()
    assert (await client.put(f"/blobs/{sha256}", content=data)).status_code == 201
    for value in ({"$blob": sha256}, {"$media": "image/png", "data": {"$blob": sha256}}):
        answer = await client.post("/flip", json={"image": value}, headers={"accept": "image/png"})
        assert Image.open(io.BytesIO(answer.content)).size == (4, 6)
    unknown = await client.post("/flip", json={"image": {"$blob": "0" * 64}})
    assert unknown.json()["code"] == "unknown_blob"


async def test_the_documents_name_the_media_types(client: httpx.AsyncClient) -> None:
    endpoints = {one["name"]: one for one in (await client.get("/socaity")).json()["endpoints"]}
    schema = endpoints["flip"]["parameters"][0]["json_schema"]
    assert (schema["x-media"], schema["contentMediaType"]) == ("image", "image/*")
    assert endpoints["count"]["parameters"][0]["json_schema"]["items"]["x-media"] == "image"
    assert endpoints["louder"]["returns"]["x-media"] == "audio"
    operation = (await client.get("/openapi.json")).json()["paths"]["/flip"]["post"]
    form = operation["requestBody"]["content"]["multipart/form-data"]["schema"]["properties"]["image"]
    assert form == {"type": "string", "contentMediaType": "image/*", "format": "binary"}
    answers = operation["responses"]["200"]["content"]
    assert answers["application/json"]["schema"]["required"] == ["$media", "data"]
    assert "image/*" in answers


def test_pictures_cannot_be_stacked() -> None:
    router = SocaityRouter()

    def stacked(image: Image.Image) -> int:
        return 1

    with pytest.raises(ValueError, match="cannot be stacked"):
        router.add_route("/stacked", max_batch_size=4)(stacked)
