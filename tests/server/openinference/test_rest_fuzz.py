"""Whatever is sent below `/v2`, the answer comes soon, is in the form of the protocol, and is no failure of the server."""

from __future__ import annotations

import asyncio
import gzip
import json
import zlib
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from socaity_server import SocaityRouter
from tests.server.openinference.conftest import LENGTH

SOON = 10.0
FEW = settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])

MODELS = [
    "simple",
    "fp32",
    "uint8",
    "fixed",
    "text",
    "word",
    "two_free",
    "anything",
    "repeat",
    "mean",
    "same_bytes",
]
KINDS = ["BOOL", "UINT8", "INT32", "UINT64", "FP16", "FP32", "FP64", "BF16", "BYTES", "FP31"]
NAMES = ["INPUT0", "INPUT1", "x", "text", "values", "data", "OUTPUT0", "output", "other"]


class Sender:
    """Sends to a service, and looks at the answer."""

    def __init__(self, router: SocaityRouter) -> None:
        self._loop = asyncio.new_event_loop()
        self._router = router
        self._client = httpx.AsyncClient(
            transport=httpx.ASGITransport(router.app, raise_app_exceptions=True), base_url="http://test"
        )

    def close(self) -> None:
        self._loop.run_until_complete(self._client.aclose())
        self._loop.run_until_complete(self._router.dataplane.aclose(0.0))
        self._loop.run_until_complete(self._loop.shutdown_default_executor())
        self._loop.close()

    def __call__(
        self, path: str, body: bytes, headers: dict[str, Any], method: str = "POST"
    ) -> httpx.Response:
        async def send() -> httpx.Response:
            async with asyncio.timeout(SOON):
                return await self._client.request(method, path, content=body, headers=headers)

        answer = self._loop.run_until_complete(send())
        if answer.status_code != 200:
            assert answer.headers["content-type"] == "application/json"
            # what is behind the checks is a function of the tests, which may well refuse
            is_functions = "ZeroDivisionError" in answer.text
            assert answer.status_code < 500 or is_functions or answer.status_code == 501, answer.text
            assert answer.json().keys() in ({"error"}, {"name", "ready"})
        return answer


@pytest.fixture
def send(router: SocaityRouter) -> Iterator[Sender]:
    sender = Sender(router)
    yield sender
    sender.close()


JSON = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=3), st.sampled_from(NAMES)
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.sampled_from(NAMES), inner, max_size=3)
    ),
    max_leaves=8,
)
SHAPES = st.one_of(
    st.lists(st.integers(0, 4), max_size=3),
    st.sampled_from([[1, 16], [2, 3], [1, 1], [1], [0, 16], [1, 0], [2**62], [2**62, 4], [-1]]),
    JSON,
)
NUMBERS = st.one_of(
    st.lists(st.one_of(st.integers(-300, 300), st.floats(), st.booleans()), max_size=16),
    st.just([1] * 16),
    st.just(["a"]),
    JSON,
)


@st.composite
def tensors(draw: st.DrawFn) -> dict[str, Any]:
    """Something like an input."""
    entry: dict[str, Any] = {
        "name": draw(st.sampled_from(NAMES)),
        "shape": draw(SHAPES),
        "datatype": draw(st.sampled_from(KINDS)),
    }
    if draw(st.booleans()):
        entry["data"] = draw(NUMBERS)
    if draw(st.booleans()):
        entry["parameters"] = {"binary_data_size": draw(st.one_of(st.integers(-1, 20), JSON))}
    if draw(st.integers(0, 9)) == 0:
        entry.pop(draw(st.sampled_from(sorted(entry))))
    return entry


@st.composite
def requests(draw: st.DrawFn) -> dict[str, Any]:
    """Something like a request."""
    document: dict[str, Any] = {"inputs": draw(st.lists(tensors(), max_size=3))}
    if draw(st.booleans()):
        outputs = st.fixed_dictionaries(
            {"name": st.sampled_from(NAMES)},
            optional={
                "parameters": st.dictionaries(
                    st.sampled_from(["binary_data", "classification"]), st.one_of(st.integers(0, 9), JSON)
                )
            },
        )
        document["outputs"] = draw(st.one_of(st.lists(outputs, max_size=2), JSON))
    if draw(st.booleans()):
        names = st.sampled_from(["binary_data_output", "priority", "sequence_id", "times", "x"])
        document["parameters"] = draw(st.dictionaries(names, st.one_of(st.integers(0, 9), JSON)))
    if draw(st.booleans()):
        document["id"] = draw(JSON)
    return document


@FEW
@given(
    model=st.sampled_from(MODELS),
    document=requests(),
    rest=st.binary(max_size=64),
    off=st.sampled_from([None, 0, 0, 0, 1, -1, 100]),
)
def test_requests_to_infer(
    send: Sender, model: str, document: dict[str, Any], rest: bytes, off: int | None
) -> None:
    text = json.dumps(document).encode()
    headers = {} if off is None else {LENGTH: str(len(text) + off)}

    send(f"/v2/models/{model}/infer", text + (b"" if off is None else rest), headers)


@FEW
@given(
    model=st.sampled_from(MODELS),
    body=st.binary(max_size=100),
    length=st.one_of(st.none(), st.integers(-1, 200).map(str), st.text("0123456789 -+.e", max_size=12)),
)
def test_bytes_to_infer(send: Sender, model: str, body: bytes, length: str | None) -> None:
    send(f"/v2/models/{model}/infer", body, {} if length is None else {LENGTH: length})


@FEW
@given(
    body=st.binary(max_size=100),
    coding=st.sampled_from(["gzip", "deflate", "br", "identity", "GZIP", "gzip,deflate"]),
    pack=st.sampled_from([None, gzip.compress, zlib.compress]),
    cut=st.integers(0, 10),
)
def test_packed_bytes_to_infer(send: Sender, body: bytes, coding: str, pack: Any, cut: int) -> None:
    packed = body if pack is None else pack(body)

    send("/v2/models/fp32/infer", packed[: len(packed) - cut], {"content-encoding": coding})


@FEW
@given(
    model=st.sampled_from([*MODELS, "words", "numbers", "nobody"]),
    verb=st.sampled_from(["generate", "generate_stream", "infer_stream"]),
    document=st.one_of(
        JSON,
        requests(),
        st.fixed_dictionaries(
            {}, optional={name: JSON for name in (*NAMES, "text_input", "parameters", "count", "id")}
        ),
    ),
)
def test_requests_to_generate(send: Sender, model: str, verb: str, document: Any) -> None:
    if isinstance(document, dict) and isinstance(document.get("count"), int):
        document["count"] %= 5
    send(f"/v2/models/{model}/{verb}", json.dumps(document).encode(), {})


@FEW
@given(
    method=st.sampled_from(["GET", "POST", "PUT", "DELETE", "OPTIONS"]),
    parts=st.lists(
        st.one_of(
            st.sampled_from(
                [
                    "models",
                    "versions",
                    "1",
                    "simple",
                    "infer",
                    "ready",
                    "stats",
                    "config",
                    "health",
                    "live",
                    "repository",
                ]
            ),
            st.sampled_from(
                ["index", "load", "unload", "%2F", "..", "%00", "%0a", "trace", "setting", "logging"]
            ),
            st.text("ab./%", max_size=3),
        ),
        max_size=6,
    ),
    body=st.one_of(st.just(b""), JSON.map(lambda value: json.dumps(value).encode())),
)
def test_any_path(send: Sender, method: str, parts: list[str], body: bytes) -> None:
    path = "/".join(["/v2", *parts])
    try:
        httpx.URL(f"http://test{path}")
    except httpx.InvalidURL:
        return
    if httpx.URL(f"http://test{path}").path.startswith("/v2"):
        send(path, body, {}, method)
