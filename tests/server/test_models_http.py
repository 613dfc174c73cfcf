"""Models over HTTP: the two routes, what they refuse, the waterfall, limits, health, and replacing a model while it serves."""

from __future__ import annotations

import asyncio
import itertools
import json
import logging
import socket
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from socaity.protocol.messagepack import packb
from socaity_server import SocaityRouter
from socaity_server.frontends.limits import Limits, SlidingWindow
from socaity_server.latency_log import LatencyLog
from socaity_server.loading import LoadedModel
from socaity_server.model_config import BreakerConfig, ModelConfig
from socaity_server.models import model_route
from socaity_server.runtimes.base import Runtime, TensorSpec

from .conftest import open_client, serve, until

pytestmark = pytest.mark.anyio
DEADLINE = 10.0
MSGPACK = "application/vnd.socaity+msgpack"


class Scaler(Runtime):
    """Multiplies rows of two numbers by `factor`; waits for `gate` where there is one."""

    name = "scaler 1"
    inputs = (TensorSpec("x", "float32", (None, 2)),)
    outputs = (TensorSpec("y", "float32", (None, 2)),)
    batched = True

    def __init__(self, factor: float = 2.0) -> None:
        self.factor = factor
        self.gate: threading.Semaphore | None = None
        self.started = threading.Event()
        self.is_closed = False
        self.seen: list[np.ndarray[Any, Any]] = []

    def run(self, inputs: Mapping[str, np.ndarray[Any, Any]]) -> dict[str, np.ndarray[Any, Any]]:
        self.seen.append(inputs["x"])
        self.started.set()
        if self.gate is not None:
            assert self.gate.acquire(timeout=DEADLINE)
        if (inputs["x"] == 666).any():
            raise ValueError("evil")
        return {"y": inputs["x"] * self.factor}

    def close(self) -> None:
        self.is_closed = True


@pytest.fixture
def scaler(router: SocaityRouter) -> Scaler:
    runtime = Scaler()
    router.add_model(runtime, name="scale")
    return runtime


# The two routes


@pytest.mark.parametrize(
    ("path", "features", "predictions"),
    [
        ("/predict/scale", [[1, 2], [3, 4]], [[2, 4], [6, 8]]),
        ("/predict/scale", [1, 2], [[2, 4]]),
        ("/predict_batched/scale", [[1, 2]], [[2, 4]]),
        ("/predict_batched/scale", [1, 2], [2, 4]),
        ("/predict_batched/scale", [[1, 2], [3, 4]], [[2, 4], [6, 8]]),
    ],
)
async def test_answer_has_rows_when_the_request_had(
    client: httpx.AsyncClient, scaler: Scaler, path: str, features: Any, predictions: Any
) -> None:
    answer = await client.post(path, json={"features": features})
    assert answer.json() == {"model": "scale", "predictions": predictions}


class Anything(Scaler):
    """Takes arrays of any shape and dtype."""

    inputs = (TensorSpec("x", None, None),)
    outputs = ()


async def test_features_of_a_model_without_shapes_are_rows(
    router: SocaityRouter, client: httpx.AsyncClient
) -> None:
    router.add_model(Anything(), name="any")
    for features, predictions in (([[1, 2], [3, 4]], [[2, 4], [6, 8]]), ([1, 2, 3], [[2, 4, 6]])):
        answer = await client.post("/predict/any", json={"features": features})
        assert answer.json()["predictions"] == predictions
    answer = await client.post("/predict_batched/any", json={"features": [1, 2, 3]})
    assert answer.json()["predictions"] == [2, 4, 6]
    answer = await client.post("/predict/any", json={"x": [1, 2, 3]})
    assert answer.json() == [2, 4, 6]


class Counter(Scaler):
    """Whole numbers stay whole, text stays whole, several outputs come by name."""

    inputs = (TensorSpec("words", "object", (None,)),)
    outputs = (TensorSpec("length", "int64", (None,)), TensorSpec("upper", "object", (None,)))

    def run(self, inputs: Mapping[str, np.ndarray[Any, Any]]) -> dict[str, np.ndarray[Any, Any]]:
        words = inputs["words"].tolist()
        return {
            "length": np.array([len(word) for word in words]),
            "upper": np.array([word.upper() for word in words], object),
        }


async def test_rows_of_a_model_without_shapes_are_rows_whatever_they_are_called(
    router: SocaityRouter, client: httpx.AsyncClient
) -> None:
    class Mean(Scaler):
        inputs = (TensorSpec("x", None, None),)

        def run(self, inputs: Mapping[str, np.ndarray[Any, Any]]) -> dict[str, np.ndarray[Any, Any]]:
            return {"y": inputs["x"].mean(axis=1)}

    router.add_model(Mean(), name="mean")
    rows = [[1, 2, 3], [4, 5, 6]]
    for body in ({"features": rows}, {"x": rows}):
        answer = (await client.post("/predict/mean", json=body)).json()
        assert (answer["predictions"] if "features" in body else answer) == [2.0, 5.0]
    assert (await client.post("/predict/mean", json={"x": [1, 2, 3]})).json() == 2.0
    for empty in ([], [[]]):
        for name in ("features", "x"):
            answer = await client.post("/predict/mean", json={name: empty})
            assert (answer.status_code, "empty" in answer.text) == (422, True)


async def test_text_integers_and_several_outputs(router: SocaityRouter, client: httpx.AsyncClient) -> None:
    router.add_model(Counter(), name="count")
    answer = await client.post("/predict/count", json={"words": ["a word of more than ten letters", "b"]})
    assert answer.json() == {"length": [31, 1], "upper": ["A WORD OF MORE THAN TEN LETTERS", "B"]}
    answer = await client.post("/predict_batched/count", json={"features": "b"})
    assert answer.json()["predictions"] == {"length": 1, "upper": "B"}


async def test_outputs_have_the_declared_dtype(router: SocaityRouter, client: httpx.AsyncClient) -> None:
    for name, output in (("named", "y"), ("only", "")):
        config = ModelConfig(outputs=(TensorSpec(output, "int64", (None, 2)),))
        router.add_model(Scaler(), name=name, config=config)
        for path in ("predict", "predict_batched"):
            answer = await client.post(f"/{path}/{name}", json={"features": [[1, 2]]})
            assert answer.text.endswith('"predictions":[[2,4]]}')


# What is refused


@pytest.mark.parametrize(
    ("body", "status", "text"),
    [
        (b'{"features": [[NaN, 1]]}', 400, "not JSON"),
        (b'{"features": [[Infinity, 1]]}', 400, "not JSON"),
        (b'{"features": [[1e999, 1]]}', 400, "JSON"),
        (b'{"features": [[1e300, 1]]}', 422, "infinit"),
        (b'{"features": []}', 422, "shape"),
        (b'{"features": [[]]}', 422, "shape"),
        (b'{"features": [[1, 2], [3]]}', 422, "different lengths"),
        (b'{"features": [[1, 2, 3]]}', 422, "shape"),
        (b'{"features": [["a", "b"]]}', 422, "text"),
        (b'{"features": [[true, false]]}', 422, "bool"),
        (b'{"features": null}', 422, "null"),
        (b'{"features": {"a": 1}}', 422, "must be"),
        (b'{"y": [1, 2]}', 422, "no parameter 'y'"),
        (b"{}", 422, "needs the parameter 'x'"),
        (b"", 400, "not JSON"),
        (b"[1, 2]", 400, "JSON object"),
        (b'{"features": ' + b"[" * 2000 + b"]" * 2000 + b"}", 400, "JSON"),
        (b'{"features": ' + b"[" * 500 + b"1" + b"]" * 500 + b"}", 422, "must"),
        (b'{"x": ' + b'{"a": ' * 500 + b"1" + b"}" * 500 + b"}", 422, "nested deeper"),
        # as an array of texts of the same length this would be 24 GB
        (b'{"x": [["' + b"y" * 200_000 + b'"' + b", [0, 0]" * 30_000 + b"]]}", 422, "text"),
    ],
)
async def test_bad_input_is_a_clear_error_and_the_model_serves_on(
    client: httpx.AsyncClient,
    scaler: Scaler,
    body: bytes,
    status: int,
    text: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.DEBUG):
        answer = await client.post(
            "/predict/scale", content=body, headers={"content-type": "application/json"}
        )
    assert answer.status_code == status, answer.text
    assert text in answer.json()["detail"]
    assert answer.headers["content-type"] == "application/problem+json"
    assert (await client.post("/predict/scale", json={"x": [1, 2]})).json() == [2, 4]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
async def test_numbers_that_are_none_are_refused_and_their_batch_is_not(
    client: httpx.AsyncClient, scaler: Scaler, bad: float
) -> None:
    scaler.gate = threading.Semaphore(0)

    async def call(value: float) -> httpx.Response:
        content = packb({"x": np.array([value, 1], np.float32)})
        return await client.post("/predict/scale", content=content, headers={"content-type": MSGPACK})

    first = asyncio.create_task(call(1.0))
    await asyncio.to_thread(scaler.started.wait, DEADLINE)
    others = [asyncio.create_task(call(value)) for value in (2.0, bad, 3.0)]
    await until(lambda: _waiting(client, "scale") == 3)
    scaler.gate.release(8)
    answers = [await first, *[await other for other in others]]
    assert [answer.status_code for answer in answers] == [200, 200, 422, 200]
    assert "infinity" in answers[2].json()["detail"]
    assert answers[2].json()["parameter"] == "x"


def _waiting(client: httpx.AsyncClient, name: str) -> int:
    transport = client._transport
    assert isinstance(transport, httpx.ASGITransport)
    dataplane = transport.app.dataplane  # type: ignore[attr-defined]
    return int(dataplane.direct_routes()[name].batcher.depth)


async def test_nan_is_let_through_where_the_model_takes_it(
    router: SocaityRouter, client: httpx.AsyncClient
) -> None:
    router.add_model(Scaler(), name="gaps", config=ModelConfig(allow_nan=True))
    content = packb({"x": np.array([np.nan, 1], np.float32)})
    answer = await client.post("/predict/gaps", content=content, headers={"content-type": MSGPACK})
    assert answer.json() == [None, 2]


@pytest.mark.parametrize(
    "name", ["scala", "..", "%2e%2e%2fsecret", "..%2f..%2fetc%2fpasswd", "a%00b", "x" * 5000, "<script>"]
)
@pytest.mark.parametrize("prefix", ["/predict", "/predict_batched"])
async def test_unknown_model_is_not_found_whatever_its_name(
    client: httpx.AsyncClient, scaler: Scaler, prefix: str, name: str
) -> None:
    answer = await client.post(f"{prefix}/{name}", json={"features": [1, 2]})
    assert answer.status_code in (404, 405)
    assert answer.headers["content-type"] == "application/problem+json"


async def test_failing_row_fails_alone_and_payloads_are_not_logged(
    client: httpx.AsyncClient, scaler: Scaler, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG):
        good, evil = await asyncio.gather(
            client.post("/predict/scale", json={"x": [12345, 2]}),
            client.post("/predict/scale", json={"x": [666, 2]}),
        )
    assert (good.status_code, good.json()) == (200, [24690, 4])
    assert (evil.status_code, evil.json()["detail"]) == (500, "ValueError: evil")
    assert "12345" not in caplog.text
    assert "666" not in caplog.text


# Time


async def test_request_may_say_how_long_it_waits(client: httpx.AsyncClient, scaler: Scaler) -> None:
    scaler.gate = threading.Semaphore(0)
    answer = await client.post("/predict/scale", json={"x": [1, 2]}, headers={"X-Request-Timeout-Ms": "20"})
    assert (answer.status_code, answer.json()["code"]) == (504, "deadline_exceeded")
    scaler.gate.release(2)
    answer = await client.post("/predict/scale", json={"x": [1, 2]}, headers={"X-Request-Timeout-Ms": "9e3"})
    assert answer.status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"X-Request-Timeout-Ms": "soon"},
        {"X-Request-Timeout-Ms": "-1"},
        {"X-Request-Timeout-Ms": "nan"},
        {"X-Request-Timeout-Ms": "inf"},
        {"X-Priority": "very"},
        {"X-Priority": "11"},
    ],
)
async def test_malformed_headers_are_refused(
    client: httpx.AsyncClient, scaler: Scaler, headers: dict[str, str]
) -> None:
    answer = await client.post("/predict/scale", json={"x": [1, 2]}, headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (400, "malformed_header")


async def test_timeout_of_the_configuration_is_an_answer(
    router: SocaityRouter, client: httpx.AsyncClient
) -> None:
    scaler = Scaler()
    scaler.gate = threading.Semaphore(0)
    router.add_model(scaler, name="slow", config=ModelConfig(timeout=0.02))
    answer = await client.post("/predict_batched/slow", json={"features": [1, 2]})
    assert answer.status_code == 504
    scaler.gate.release(2)


async def test_model_that_hangs_makes_the_service_unready(
    router: SocaityRouter, client: httpx.AsyncClient
) -> None:
    scaler = Scaler()
    scaler.gate = threading.Semaphore(0)
    router.add_model(scaler, name="slow", config=ModelConfig(timeout=0.02))
    await _hang(router, client, "slow", scaler)
    health = await client.get("/health")
    assert (health.status_code, health.json()["status"]) == (503, "broken")
    assert "every instance runs" in health.json()["models"]["slow"]["reason"]
    waiting = asyncio.create_task(client.post("/predict/slow", json={"x": [1, 2]}))
    scaler.gate.release(8)
    await waiting
    await until(lambda: not router.dataplane.direct_routes()["slow"].batcher.is_stuck)
    assert (await client.get("/health")).status_code == 200


async def _hang(router: SocaityRouter, client: httpx.AsyncClient, name: str, model: Scaler) -> None:
    """Call a model that does not answer until it is known to hang. A call may time out before the model gets it."""
    async with asyncio.timeout(DEADLINE):
        while not model.seen:
            assert (await client.post(f"/predict/{name}", json={"x": [1, 2]})).status_code == 504
    await until(lambda: router.dataplane.direct_routes()[name].batcher.is_stuck)


# The waterfall


async def test_explain_tells_where_the_time_went(client: httpx.AsyncClient, scaler: Scaler) -> None:
    answer = await client.post("/predict/scale?explain=1", json={"features": [[1, 2], [3, 4]]})
    document = answer.json()
    assert document["result"] == {"model": "scale", "predictions": [[2, 4], [6, 8]]}
    explain = document["explain"]
    assert (explain["model"], explain["rows"]) == ("scale", 2)
    assert explain["batch"] == {"calls": 1, "rows": 2}
    steps = explain["steps"]
    assert [step["step"] for step in steps] == ["queued", "batched", "computed", "delivered", "encoded"]
    assert sum(step["ms"] for step in steps) == pytest.approx(explain["total_ms"], abs=0.01)
    for before, after in itertools.pairwise(steps):
        assert after["start_ms"] == pytest.approx(before["start_ms"] + before["ms"], abs=0.01)


async def test_explain_header_leaves_the_answer_as_it_is(client: httpx.AsyncClient, scaler: Scaler) -> None:
    answer = await client.post("/predict/scale", json={"x": [1, 2]}, headers={"X-Explain": "1"})
    assert answer.json() == [2, 4]
    assert answer.headers["server-timing"].startswith("queued;dur=")
    assert 'batch;desc="1 calls, 1 rows"' in answer.headers["server-timing"]
    assert "server-timing" not in (await client.post("/predict/scale", json={"x": [1, 2]})).headers


async def test_debug_mode_writes_latencies_and_no_payloads(
    tmp_path: Path, router: SocaityRouter, client: httpx.AsyncClient
) -> None:
    log = LatencyLog(str(tmp_path / "logs"))
    router.app.observers.append(log)
    router.add_model(Scaler(), name="scale")
    await client.post("/predict_batched/scale", json={"features": [31337, 2]})
    await client.post("/predict/scale", json={"features": [[1]]})
    log.close()
    first, second = (tmp_path / "logs" / "latency.log").read_text().splitlines()
    assert "predict_batched scale queued=" in first
    assert "rows=1 batch=1/1" in first
    assert "predict scale failed" in second
    assert "31337" not in first


async def test_requests_are_traced_where_a_provider_is_set(
    router: SocaityRouter, monkeypatch: pytest.MonkeyPatch
) -> None:
    trace = pytest.importorskip("opentelemetry.trace")
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    exporter, provider = InMemorySpanExporter(), TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "get_tracer_provider", lambda: provider)
    router.add_model(Scaler(), name="scale")
    parent = "00-" + "a" * 32 + "-" + "b" * 16 + "-01"
    with serve(router) as url:
        async with httpx.AsyncClient(base_url=url) as client:
            await client.post("/predict/scale", json={"x": [1, 2]}, headers={"traceparent": parent})
            await client.post("/predict/scale", json={"x": [1]})
    spans = exporter.get_finished_spans()
    assert [span.name for span in spans if span.name.startswith("predict")] == ["predict scale"] * 2
    by_name = {span.name: span for span in spans if f"{span.context.trace_id:032x}" == "a" * 32}
    assert by_name.keys() == {"predict scale", "queue", "compute", "encode"}
    assert f"{by_name['predict scale'].parent.span_id:016x}" == "b" * 16
    assert router.app.observers == []


# Breaker, health, listing


async def test_open_breaker_refuses_at_once_and_health_says_so(
    router: SocaityRouter, client: httpx.AsyncClient
) -> None:
    config = ModelConfig(circuit_breaker=BreakerConfig(minimum_calls=4, recovery_time=600.0))
    router.add_model(Scaler(), name="scale", config=config)
    for _ in range(8):
        await client.post("/predict/scale", json={"x": [1]})  # the caller's fault
    assert (await client.get("/health")).json()["models"]["scale"]["circuit_breaker"] == "closed"
    for _ in range(4):
        assert (await client.post("/predict/scale", json={"x": [666, 1]})).status_code == 500
    answer = await client.post("/predict/scale", json={"x": [1, 2]})
    assert (answer.status_code, answer.json()["code"]) == (503, "circuit_open")
    assert 590 < int(answer.headers["retry-after"]) <= 600
    health = await client.get("/health")
    assert (health.status_code, health.json()["status"]) == (503, "broken")
    assert health.json()["models"]["scale"]["circuit_breaker"] == "open"


async def test_probe_that_says_nothing_leaves_its_place_to_the_next(
    router: SocaityRouter, client: httpx.AsyncClient
) -> None:
    config = ModelConfig(circuit_breaker=BreakerConfig(minimum_calls=1, recovery_time=0.001))
    scaler = Scaler()
    router.add_model(scaler, name="scale", config=config)
    assert (await client.post("/predict/scale", json={"x": [666, 1]})).status_code == 500
    breaker = router.dataplane.direct_routes()["scale"].breaker
    assert breaker is not None
    scaler.gate = threading.Semaphore(0)

    async def ask(x: Any, **headers: str) -> httpx.Response:
        async with asyncio.timeout(DEADLINE):
            while True:  # the recovery time is a millisecond
                answer = await client.post("/predict/scale", json={"x": x}, headers=headers)
                if "circuit_open" not in answer.text:
                    return answer

    assert (await ask([1, 2, 3])).status_code == 422
    assert breaker.state != "closed"
    late = await ask([1, 2], **{"X-Request-Timeout-Ms": "20"})
    assert late.json()["code"] == "deadline_exceeded"
    gone = asyncio.create_task(ask([3, 4]))
    # behind the one that came too late, unless that did so before the model had it
    await until(lambda: _waiting(client, "scale") or any((rows == 3).any() for rows in scaler.seen))
    assert (await client.post("/predict/scale", json={"x": [1, 2]})).json()["code"] == "circuit_open"
    gone.cancel()
    with pytest.raises(asyncio.CancelledError):
        await gone
    scaler.gate.release(100)
    assert (await ask([1, 2])).json() == [2, 4]
    assert breaker.state == "closed"


async def test_models_are_listed_for_programs_and_for_people(
    router: SocaityRouter, client: httpx.AsyncClient
) -> None:
    router.add_model(Scaler(), name="scale", config=ModelConfig(description="<b>bold</b>"))
    (model,) = (await client.get("/available_models")).json()["models"]
    assert (model["name"], model["state"], model["backend"]) == ("scale", "ready", "scaler 1")
    assert model["inputs"] == [{"name": "x", "dtype": "float32", "shape": [-1, 2]}]
    page = await client.get("/available_models", headers={"Accept": "text/html,*/*"})
    assert page.headers["content-type"].startswith("text/html")
    assert "<td>scale</td>" in page.text
    assert "<b>bold" not in page.text


async def test_health_has_the_fields_of_the_first_model_server(
    client: httpx.AsyncClient, scaler: Scaler
) -> None:
    health = (await client.get("/health")).json()
    assert health["status"] == "healthy"
    assert health["loaded_models"] == ["scale"]
    assert health.keys() >= {"max_workers", "debug_mode", "log_directory", "Semaphore_case"}


async def test_model_that_loads_still_says_when_to_come_back(
    tmp_path: Path, router: SocaityRouter, client: httpx.AsyncClient
) -> None:
    (tmp_path / "slow").mkdir()
    (tmp_path / "slow" / "model_config.yaml").write_text("execution: thread\nwarmup: false\n")
    (tmp_path / "slow" / "model.py").write_text(
        "import pathlib, time\n"
        "def load():\n"
        "    while not pathlib.Path(__file__).with_name('go').exists():\n"
        "        time.sleep(0.005)\n"
        "def predict(x):\n"
        "    return x\n"
    )
    router.add_models(tmp_path)
    for path in ("/predict/slow", "/predict_batched/slow"):
        answer = await client.post(path, json={"features": [[1, 2]]})
        assert (answer.status_code, answer.json()["code"]) == (503, "model_loading")
        assert int(answer.headers["retry-after"]) >= 1
    health = await client.get("/health")
    assert (health.status_code, health.json()["status"]) == (503, "loading")
    assert (await client.get("/available_models")).json()["status"] == "loading"
    (tmp_path / "slow" / "go").touch()
    await router.dataplane.settled(DEADLINE)
    answer = await client.post("/predict/slow", json={"features": [[1, 2]]})
    assert answer.json() == {"model": "slow", "predictions": [[1, 2]]}
    assert (await client.get("/health")).json()["status"] == "healthy"


async def test_health_and_the_list_of_models_say_the_same(
    tmp_path: Path, router: SocaityRouter, client: httpx.AsyncClient
) -> None:
    def put(name: str, source: str) -> None:
        (tmp_path / name).mkdir()
        (tmp_path / name / "model_config.yaml").write_text("execution: thread\nwarmup: false\n")
        (tmp_path / name / "model.py").write_text(source)

    async def look() -> tuple[int, str, dict[str, str]]:
        health = await client.get("/health")
        listed = (await client.get("/available_models")).json()
        assert listed["status"] == health.json()["status"]
        shown = health.json()["models"]
        assert {
            one["name"]: {key: one[key] for key in shown[one["name"]]} for one in listed["models"]
        } == shown
        states = {name: one["state"] for name, one in shown.items()}
        assert sorted(health.json()["loaded_models"]) == [name for name in states if states[name] == "ready"]
        return health.status_code, listed["status"], states

    put("broken", "def predict(x:\n")
    repository = router.add_models(tmp_path)
    await client.get("/health")
    await router.dataplane.settled(DEADLINE)
    assert await look() == (503, "broken", {"broken": "failed"})
    put(
        "slow",
        "import pathlib, time\n"
        "def load():\n"
        "    while not pathlib.Path(__file__).with_name('go').exists():\n"
        "        time.sleep(0.005)\n"
        "def predict(x):\n"
        "    return x\n",
    )
    loading = asyncio.create_task(repository.load("slow"))
    async with asyncio.timeout(DEADLINE):
        while "slow" not in (await look())[2]:
            await asyncio.sleep(0)
    assert await look() == (503, "loading", {"broken": "failed", "slow": "loading"})
    router.add_model(Scaler(), name="scale")
    # a model that is put beside others does not take them out of a load balancer
    both = {"broken": "failed", "scale": "ready"}
    assert await look() == (200, "degraded", {**both, "slow": "loading"})
    (tmp_path / "slow" / "go").touch()
    await loading
    assert await look() == (200, "degraded", {**both, "slow": "ready"})
    await repository.unload("slow")
    assert (await look())[2] == {**both, "slow": "unloaded"}
    await repository.unload("broken")
    assert await look() == (200, "healthy", {"broken": "unloaded", "scale": "ready", "slow": "unloaded"})


async def test_list_of_models_tells_of_breakers_and_of_models_that_hang(
    router: SocaityRouter, client: httpx.AsyncClient
) -> None:
    runtime = Scaler()
    breaker = BreakerConfig(minimum_calls=1, recovery_time=600.0)
    router.add_model(Scaler(), name="scale", config=ModelConfig(circuit_breaker=breaker))
    router.add_model(runtime, name="hang", config=ModelConfig(timeout=0.05, instances=1))
    assert (await client.post("/predict/scale", json={"x": [666, 1]})).status_code == 500
    runtime.gate = threading.Semaphore(0)
    await _hang(router, client, "hang", runtime)
    models = {one["name"]: one for one in (await client.get("/available_models")).json()["models"]}
    assert models["scale"]["circuit_breaker"] == "open"
    health = await client.get("/health")
    assert (health.status_code, health.json()["status"]) == (503, "broken")
    models = {one["name"]: one for one in (await client.get("/available_models")).json()["models"]}
    assert models["hang"]["reason"] == health.json()["models"]["hang"]["reason"]
    assert "every instance runs for more than 0.05 s" in models["hang"]["reason"]
    runtime.gate.release(100)


async def test_function_beside_a_broken_model_can_be_called(
    tmp_path: Path, router: SocaityRouter, client: httpx.AsyncClient
) -> None:
    (tmp_path / "model.py").write_text("def predict(x:\n")
    router.add_models(tmp_path)

    @router.add_route("/hello")
    def hello() -> str:
        return "hello"

    await client.get("/health")
    await router.dataplane.settled(DEADLINE)
    health = await client.get("/health")
    assert (health.status_code, health.json()["status"]) == (200, "degraded")


@pytest.mark.parametrize(
    ("path", "body", "named"),
    [
        ("/predict/scale", {"x": [1, 2], "scale": 2.0}, "scale"),
        ("/predict/scale", {"features": [[1, 2]], "scale": 2.0}, "scale"),
        ("/predict_batched/scale", {"features": [[1, 2]], "y": 2.0}, "y"),
        ("/predict/scale", {"features": [[1, 2]], "x": [1, 2]}, "features"),
    ],
)
async def test_undeclared_input_is_refused_with_the_known_ones(
    client: httpx.AsyncClient, scaler: Scaler, path: str, body: dict[str, Any], named: str
) -> None:
    answer = await client.post(path, json=body)
    assert (answer.status_code, answer.json()["parameter"]) == (422, named)
    assert answer.json()["detail"].startswith(f"scale() has no parameter {named!r}")
    assert "It takes x." in answer.json()["detail"]
    assert scaler.seen == []


# Limits


def test_window_lets_clients_in_again_and_forgets_them() -> None:
    window = SlidingWindow(2, 10.0, max_keys=3)
    assert [window.admit("a", now) for now in (0.0, 4.0, 5.0)] == [None, None, 5.0]
    assert window.admit("b", 5.0) is None
    assert window.admit("a", 10.5) is None
    assert window.admit("a", 11.0) == 3.0
    for number in range(100):
        window.admit(f"c{number}", 12.0)
    assert len(window) <= 4
    window.admit("d", 1000.0)
    assert len(window) == 1


async def test_rate_limit_counts_every_route_and_believes_no_header(
    router: SocaityRouter, scaler: Scaler
) -> None:
    router.app.limits = Limits(max_concurrent=None, rate_limit=3, rate_period=60.0, clock=lambda: 0.0)
    async with open_client(router) as client:
        statuses = []
        for number in range(5):
            answer = await client.post(
                "/predict/scale", json={"x": [1, 2]}, headers={"X-Forwarded-For": f"10.0.0.{number}"}
            )
            statuses.append(answer.status_code)
        assert statuses == [200, 200, 200, 429, 429]
        assert answer.headers["retry-after"] == "60"
        assert (await client.get("/available_models")).status_code == 429
        assert (await client.get("/health")).status_code == 200


async def test_too_many_requests_at_once_are_refused(router: SocaityRouter, scaler: Scaler) -> None:
    router.app.limits = Limits(max_concurrent=1, rate_limit=None, rate_period=60.0)
    scaler.gate = threading.Semaphore(0)
    async with open_client(router) as client:
        first = asyncio.create_task(client.post("/predict/scale", json={"x": [1, 2]}))
        await asyncio.to_thread(scaler.started.wait, DEADLINE)
        answer = await client.post("/predict/scale", json={"x": [1, 2]})
        assert (answer.status_code, answer.json()["code"]) == (503, "too_many_requests")
        scaler.gate.release(4)
        assert (await first).status_code == 200
        assert (await client.post("/predict/scale", json={"x": [1, 2]})).status_code == 200


# Replacing


async def test_replaced_model_finishes_what_it_has_and_the_new_one_takes_over(
    router: SocaityRouter, client: httpx.AsyncClient, scaler: Scaler
) -> None:
    scaler.gate = threading.Semaphore(0)
    running = asyncio.create_task(client.post("/predict/scale", json={"x": [1, 2]}))
    await asyncio.to_thread(scaler.started.wait, DEADLINE)
    waiting = asyncio.create_task(client.post("/predict/scale", json={"x": [3, 4]}))
    await until(lambda: _waiting(client, "scale") == 1)
    route = model_route(LoadedModel.of_runtime(Scaler(10.0), "scale"))
    router.dataplane.replace(route)
    router.app.withdraw(route.path, "scale")
    router.app.serve(route)
    assert (await client.post("/predict/scale", json={"x": [1, 2]})).json() == [10, 20]
    assert (await client.post("/predict_batched/scale", json={"features": [1, 2]})).json()["predictions"] == [
        10,
        20,
    ]
    scaler.gate.release(2)
    assert (await running).json() == [2, 4]
    assert (await waiting).json() == [6, 8]
    await asyncio.wait_for(router.dataplane.retired(), DEADLINE)
    assert router.dataplane.direct_routes()["scale"].statistics.succeeded == 4
    schema = (await client.get("/openapi.json")).json()
    assert json.dumps(schema).count('"/predict/scale"') == 1
    router.app.withdraw(route.path, "scale")
    router.dataplane.remove("scale")
    assert (await client.post("/predict/scale", json={"x": [1, 2]})).status_code == 404


def test_call_of_a_client_that_has_gone_does_not_run_on_the_long_way_either(
    router: SocaityRouter, scaler: Scaler
) -> None:
    scaler.gate = threading.Semaphore(0)
    body = b'{"x": [1, 2]}'
    request = (
        b"POST /predict/scale HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\nx-priority: 1\r\n"
        b"content-length: %d\r\n\r\n%s" % (len(body), body)
    )
    with serve(router) as url:
        address = ("127.0.0.1", int(url.rpartition(":")[2]))
        with socket.create_connection(address, DEADLINE) as first:
            first.sendall(request)
            assert scaler.started.wait(DEADLINE)
            with socket.create_connection(address, DEADLINE) as second:
                second.sendall(request)
                batcher = router.dataplane.direct_routes()["scale"].batcher
                until_true(lambda: batcher.queued_calls == 1)
            until_true(lambda: batcher.queued_calls == 0)  # the second has gone
            scaler.gate.release(2)
            assert first.recv(65536).startswith(b"HTTP/1.1 200")
    assert len(scaler.seen) == 1


def until_true(is_true: Callable[[], bool]) -> None:
    end = time.monotonic() + DEADLINE
    while not is_true():
        assert time.monotonic() < end
        time.sleep(0.001)


async def test_complex_output_is_not_made_real_silently(
    router: SocaityRouter, client: httpx.AsyncClient
) -> None:
    class Turning(Scaler):
        def run(self, inputs: Mapping[str, np.ndarray[Any, Any]]) -> dict[str, np.ndarray[Any, Any]]:
            return {"y": inputs["x"] * np.complex64(1j)}

    config = ModelConfig(outputs=(TensorSpec("y", "float32", (None, 2)),))
    router.add_model(Turning(), name="turning", config=config)
    answer = await client.post("/predict/turning", json={"x": [1, 2]})
    assert answer.status_code == 500
    assert "complex64 and declared as float32" in answer.json()["detail"]
