"""The other routes below `/v2`: health, metadata, versions, configuration, statistics and the model repository."""

from __future__ import annotations

import gc
import weakref
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from socaity.exceptions import ConfigurationError
from socaity_server import SocaityRouter
from socaity_server.auth.config import Auth
from socaity_server.frontends.limits import Limits
from socaity_server.openinference.service import EXTENSIONS
from tests.server.conftest import open_client
from tests.server.openinference.conftest import LENGTH, Identity, binary_body, raw_of, refused, tensor

pytestmark = pytest.mark.anyio


@pytest.fixture
async def folder(tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    """A folder with a model of two versions, one that is broken, and one that is declared."""
    for place, source in {
        "half/1": "def predict(x):\n    return x / 2\n",
        "half/2": "def predict(x):\n    return x / 2\n",
        "broken": "def predict(x:\n",
        "declared": "def predict(x):\n    return {'y': x[:, 0], 'z': x}\n",
    }.items():
        (tmp_path / place).mkdir(parents=True)
        (tmp_path / place / "model.py").write_text(source)
    (tmp_path / "half" / "model_config.yaml").write_text("execution: thread\n")
    (tmp_path / "declared" / "model_config.yaml").write_text(
        "execution: thread\nbatching: {max_batch_size: 16, max_batch_wait: 0.002, preferred_batch_sizes: [4, 8]}\n"
        "inputs:\n- {name: x, dtype: float32, shape: [-1, 3]}\n"
    )
    router = SocaityRouter(grace=1.0)
    router.add_models(tmp_path)
    async with open_client(router) as client:
        await client.get("/health")
        await router.dataplane.settled()
        yield client


# Health and metadata


@pytest.mark.parametrize("path", ["/v2", "/v2/"])
async def test_the_server_says_what_it_has(client: httpx.AsyncClient, path: str) -> None:
    document = (await client.get(path)).json()

    assert document.keys() == {"name", "version", "extensions"}
    assert document["extensions"] == list(EXTENSIONS)
    assert {"binary_tensor_data", "statistics", "model_repository"} <= set(EXTENSIONS)


async def test_health_has_a_body_that_every_client_reads(client: httpx.AsyncClient) -> None:
    assert (await client.get("/v2/health/live")).json() == {"live": True}
    assert (await client.get("/v2/health/ready")).json() == {"live": True, "ready": True}
    assert (await client.get("/v2/models/simple/ready")).json() == {"name": "simple", "ready": True}


async def test_a_model_that_failed_makes_the_server_not_ready(folder: httpx.AsyncClient) -> None:
    ready = await folder.get("/v2/health/ready")
    broken = await folder.get("/v2/models/broken/ready")

    assert (ready.status_code, ready.json()) == (503, {"live": True, "ready": False})
    assert (broken.status_code, broken.json()) == (503, {"name": "broken", "ready": False})
    assert (await folder.get("/v2/models/half/ready")).status_code == 200
    assert (await folder.get("/v2/health/live")).status_code == 200


async def test_a_service_that_stops_is_not_live(router: SocaityRouter, client: httpx.AsyncClient) -> None:
    await client.get("/v2")
    await router.dataplane.drain(0.1)

    assert (await client.get("/v2/health/live")).json() == {"live": False}
    assert (await client.get("/v2/health/ready")).status_code == 503
    body = {"inputs": [tensor("INPUT0", np.ones((1, 2)), "FP32")]}
    answer = await client.post("/v2/models/fp32/infer", json=body)
    refused(answer, 503)
    assert int(answer.headers["retry-after"]) >= 1


async def test_metadata_names_every_tensor(client: httpx.AsyncClient) -> None:
    document = (await client.get("/v2/models/simple")).json()

    assert document == {
        "name": "simple",
        "versions": ["1"],
        "platform": "simple_model",
        "inputs": [{"name": f"INPUT{n}", "datatype": "INT32", "shape": [-1, 16]} for n in (0, 1)],
        "outputs": [{"name": f"OUTPUT{n}", "datatype": "INT32", "shape": [-1, 16]} for n in (0, 1)],
    }


async def test_metadata_of_functions_comes_from_their_annotations(client: httpx.AsyncClient) -> None:
    repeat = (await client.get("/v2/models/repeat")).json()
    words = (await client.get("/v2/models/words")).json()

    assert repeat["inputs"] == [
        {"name": "text", "datatype": "BYTES", "shape": [1]},
        {"name": "times", "datatype": "INT64", "shape": [1]},
        {"name": "loud", "datatype": "BOOL", "shape": [1]},
    ]
    assert repeat["outputs"] == [{"name": "output", "datatype": "BYTES", "shape": [1]}]
    assert repeat["properties"]["optional"] == "times,loud"
    assert words["properties"]["decoupled"] == "true"


async def test_outputs_are_learned_from_the_first_run(client: httpx.AsyncClient) -> None:
    before = (await client.get("/v2/models/anything")).json()["outputs"]
    await client.post(
        "/v2/models/anything/infer", json={"inputs": [tensor("x", np.ones((1, 2), np.int16), "INT16")]}
    )
    after = (await client.get("/v2/models/anything")).json()["outputs"]

    assert before == []
    assert after == [{"name": "output", "datatype": "INT16", "shape": [-1, -1]}]


async def test_outputs_are_learned_from_the_warm_up(folder: httpx.AsyncClient) -> None:
    document = (await folder.get("/v2/models/declared")).json()

    assert document["outputs"] == [
        {"name": "y", "datatype": "FP32", "shape": [-1]},
        {"name": "z", "datatype": "FP32", "shape": [-1, 3]},
    ]
    assert document["platform"].startswith("python")


# Versions


async def test_a_version_may_be_named(folder: httpx.AsyncClient) -> None:
    body = {"inputs": [tensor("x", np.array([[2.0]]), "FP64")]}

    named = await folder.post("/v2/models/half/versions/2/infer", json=body)

    assert named.json()["model_version"] == "2"
    assert (await folder.get("/v2/models/half/versions/2")).json()["versions"] == ["2"]
    assert (await folder.get("/v2/models/half/versions/2/config")).status_code == 200
    assert (await folder.get("/v2/models/half/versions/2/stats")).json()["model_stats"][0]["version"] == "2"


@pytest.mark.parametrize("verb", ["", "/config", "/stats", "/ready"])
async def test_an_unknown_version_is_not_found(folder: httpx.AsyncClient, verb: str) -> None:
    refused(await folder.get(f"/v2/models/half/versions/v9.beta{verb}"), 404, "v9.beta")


async def test_a_known_version_that_is_not_served_is_not_ready(folder: httpx.AsyncClient) -> None:
    answer = await folder.get("/v2/models/half/versions/1/ready")

    assert (answer.status_code, answer.json()) == (503, {"name": "half", "ready": False})
    refused(await folder.get("/v2/models/half/versions/1"), 404, "'2' is")


@pytest.mark.parametrize(
    "path", ["", "/ready", "/config", "/stats", "/infer", "/generate", "/generate_stream"]
)
async def test_an_unknown_model_is_not_found(client: httpx.AsyncClient, path: str) -> None:
    method = "POST" if path in ("/infer", "/generate", "/generate_stream") else "GET"
    json: dict[str, Any] | None = {"inputs": []} if method == "POST" else None

    refused(await client.request(method, f"/v2/models/nobody{path}", json=json), 404, "nobody")


async def test_an_unknown_model_is_said_before_the_body_is_looked_at(client: httpx.AsyncClient) -> None:
    refused(await client.post("/v2/models/nobody/infer", content=b"no JSON"), 404, "nobody")


async def test_the_name_of_a_model_may_have_a_slash(router: SocaityRouter, client: httpx.AsyncClient) -> None:
    for path in ("/v2/models/org/model/ready", "/v2/models/org%2Fmodel/ready"):
        refused(await client.get(path), 404, "'org/model'")
    refused(
        await client.post("/v2/models/org/model/versions/3/infer", json={"inputs": []}), 404, "'org/model'"
    )


# Configuration and statistics


async def test_the_configuration_is_that_of_the_model(folder: httpx.AsyncClient) -> None:
    config = (await folder.get("/v2/models/declared/config")).json()

    assert config["max_batch_size"] == 16
    assert config["input"] == [{"name": "x", "data_type": "TYPE_FP32", "dims": [3]}]
    assert config["output"] == [
        {"name": "y", "data_type": "TYPE_FP32", "dims": []},
        {"name": "z", "data_type": "TYPE_FP32", "dims": [3]},
    ]
    assert config["dynamic_batching"]["preferred_batch_size"] == [4, 8]
    assert config["dynamic_batching"]["max_queue_delay_microseconds"] == 2000
    assert config["instance_group"][0]["count"] == 1


async def test_a_model_without_a_batch_has_its_whole_shape(client: httpx.AsyncClient) -> None:
    config = (await client.get("/v2/models/fixed/config")).json()

    assert config["max_batch_size"] == 0
    assert config["input"] == [{"name": "INPUT0", "data_type": "TYPE_FP32", "dims": [2, 3]}]
    assert "dynamic_batching" not in config


async def test_a_generator_is_decoupled(client: httpx.AsyncClient) -> None:
    config = (await client.get("/v2/models/words/config")).json()

    assert config["model_transaction_policy"] == {"decoupled": True}
    assert config["input"][0]["data_type"] == "TYPE_STRING"
    assert config["input"][1]["optional"] is True


async def test_statistics_count_rows_batches_and_failures(client: httpx.AsyncClient) -> None:
    good = {"inputs": [tensor("INPUT0", np.ones((3, 2)), "FP32")]}
    bad = {"inputs": [tensor("INPUT0", np.ones((3, 2)), "FP64")]}
    for body in (good, good, bad):
        await client.post("/v2/models/fp32/infer", json=body)

    (one,) = (await client.get("/v2/models/fp32/stats")).json()["model_stats"]
    every = (await client.get("/v2/models/stats")).json()["model_stats"]

    assert (one["inference_count"], one["execution_count"]) == (6, 2)
    stats = one["inference_stats"]
    assert (stats["success"]["count"], stats["fail"]["count"], stats["queue"]["count"]) == (2, 1, 2)
    assert 0 < stats["compute_infer"]["ns"] <= stats["success"]["ns"]
    assert one["batch_stats"][0]["compute_infer"]["count"] == 2
    assert one["last_inference"] > 1_600_000_000_000
    assert {entry["name"] for entry in every} == set((await client.get("/v2/models")).json()["models"])


async def test_calls_of_functions_are_counted(client: httpx.AsyncClient) -> None:
    values = {"name": "values", "shape": [1], "datatype": "FP64", "data": [1.0]}
    await client.post("/v2/models/mean/infer", json={"inputs": [values]})
    await client.post("/v2/models/mean/infer", json={"inputs": [{**values, "shape": [0], "data": []}]})
    await client.post("/v2/models/mean/infer", json={"inputs": []})

    (one,) = (await client.get("/v2/models/mean/stats")).json()["model_stats"]

    assert (one["inference_stats"]["success"]["count"], one["inference_stats"]["fail"]["count"]) == (1, 2)


async def test_requests_appear_in_the_metrics(client: httpx.AsyncClient) -> None:
    await client.post("/v2/models/fp32/infer", json={"inputs": [tensor("INPUT0", np.ones((3, 2)), "FP32")]})

    assert 'nv_inference_count{model="fp32",version="1"} 3.0' in (await client.get("/metrics")).text


# The repository


async def test_the_index_lists_every_model(folder: httpx.AsyncClient) -> None:
    listed = (await folder.post("/v2/repository/index")).json()
    ready = (await folder.post("/v2/repository/index", json={"ready": True})).json()

    assert [(one["name"], one["version"], one["state"]) for one in listed] == [
        ("broken", "1", "UNAVAILABLE"),
        ("declared", "1", "READY"),
        ("half", "2", "READY"),
    ]
    assert "SyntaxError" in listed[0]["reason"]
    assert [one["name"] for one in ready] == ["declared", "half"]


async def test_a_model_is_unloaded_and_loaded_again(folder: httpx.AsyncClient) -> None:
    unload = await folder.post(
        "/v2/repository/models/half/unload", json={"parameters": {"unload_dependents": False}}
    )
    state = (await folder.post("/v2/repository/index")).json()[2]
    gone = await folder.get("/v2/models/half/ready")
    load = await folder.post("/v2/repository/models/half/load", json={})

    assert unload.json() == {"name": "half", "unload": True}
    assert (state["state"], state["reason"]) == ("UNAVAILABLE", "unloaded")
    assert (gone.status_code, gone.json()) == (503, {"name": "half", "ready": False})
    assert load.json() == {"name": "half", "load": True}
    assert (await folder.get("/v2/models/half/ready")).status_code == 200


async def test_a_model_that_is_unloaded_is_let_go(tmp_path: Path) -> None:
    (tmp_path / "half").mkdir()
    (tmp_path / "half" / "model.py").write_text("def predict(x):\n    return x / 2\n")
    (tmp_path / "half" / "model_config.yaml").write_text("execution: thread\n")
    router = SocaityRouter(grace=1.0)
    router.add_models(tmp_path)
    async with open_client(router) as client:
        await client.get("/health")
        await router.dataplane.settled()
        assert (await client.get("/v2/models/half")).status_code == 200
        model = router.dataplane.routes["half"].model
        assert model is not None
        kept = weakref.ref(model.runtime)
        del model
        assert (await client.post("/v2/repository/models/half/unload")).status_code == 200
        gc.collect()

        assert kept() is None


async def test_a_load_may_have_no_body_and_loads_anew(folder: httpx.AsyncClient) -> None:
    answer = await folder.post("/v2/repository/models/half/load")

    assert answer.json() == {"name": "half", "load": True}


async def test_what_cannot_be_loaded_says_why(folder: httpx.AsyncClient) -> None:
    refused(await folder.post("/v2/repository/models/broken/load"), 503, "SyntaxError")
    refused(await folder.post("/v2/repository/models/nobody/load"), 404, "nobody")
    refused(await folder.post("/v2/repository/models/nobody/unload"), 404, "nobody")


@pytest.mark.parametrize("key", ["config", "file:1/model.py", f"file:{'x' * 300}"])
async def test_a_load_takes_no_configuration(folder: httpx.AsyncClient, key: str) -> None:
    body = {"parameters": {key: "e30="}}

    refused(await folder.post("/v2/repository/models/half/load", json=body), 403, "folder of the model")
    assert (await folder.get("/v2/models/half/ready")).status_code == 200


async def test_models_added_in_code_are_not_unloaded(client: httpx.AsyncClient) -> None:
    refused(await client.post("/v2/repository/models/simple/unload"), 400, "added by the program")


# What is not there


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v2/systemsharedmemory/region/a/register"),
        ("POST", "/v2/cudasharedmemory/region/a/register"),
        ("POST", "/v2/logging"),
        ("POST", "/v2/trace/setting"),
        ("POST", "/v2/models/simple/trace/setting"),
    ],
)
async def test_what_is_not_offered_says_so(client: httpx.AsyncClient, method: str, path: str) -> None:
    body = {"trace_level": ["TIMESTAMPS"], "log_info": False}
    refused(await client.request(method, path, json=body), 501, "extensions")


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("model", ["", "/models/simple"])
async def test_trace_settings_can_be_read(client: httpx.AsyncClient, method: str, model: str) -> None:
    answer = await client.request(method, f"/v2{model}/trace/setting", json={"trace_rate": None})

    assert answer.status_code == 200
    assert answer.json() == {
        "trace_file": "",
        "trace_level": ["OFF"],
        "trace_rate": "1000",
        "trace_count": "-1",
        "log_frequency": "0",
    }


async def test_trace_settings_of_no_model_are_not_found(client: httpx.AsyncClient) -> None:
    refused(await client.get("/v2/models/none/trace/setting"), 404, "none")


async def test_log_settings_are_those_of_the_logger(
    client: httpx.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    for level, expected in [("WARNING", (False, True, 0)), ("DEBUG", (True, True, 1))]:
        with caplog.at_level(level, "socaity_server"):
            said = (await client.get("/v2/logging")).json()
        assert (said["log_info"], said["log_error"], said["log_verbose_level"]) == expected


@pytest.mark.parametrize("kind", ["system", "cuda"])
async def test_there_are_no_regions_of_shared_memory(client: httpx.AsyncClient, kind: str) -> None:
    assert (await client.get(f"/v2/{kind}sharedmemory/status")).json() == []
    assert (await client.post(f"/v2/{kind}sharedmemory/unregister")).json() == {}
    refused(await client.get(f"/v2/{kind}sharedmemory/region/a/status"), 404, "'a'")


async def test_models_stay_where_clients_may_not_load(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOCAITY_MODEL_CONTROL", "false")
    (tmp_path / "half").mkdir()
    (tmp_path / "half" / "model.py").write_text("def predict(x):\n    return x / 2\n")
    router = SocaityRouter()
    router.add_models(tmp_path)
    async with open_client(router) as client:
        await client.get("/v2/health/live")
        await router.dataplane.settled()
        for verb in ("load", "unload"):
            refused(await client.post(f"/v2/repository/models/half/{verb}"), 503, "not allowed")
        assert (await client.get("/v2/models/half/ready")).status_code == 200


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("GET", "/v2/models/simple/infer", "POST"),
        ("POST", "/v2/models/simple", "GET, HEAD"),
        ("DELETE", "/v2/health/live", "GET, HEAD"),
        ("GET", "/v2/repository/index", "POST"),
    ],
)
async def test_a_wrong_method_is_405(client: httpx.AsyncClient, method: str, path: str, allowed: str) -> None:
    answer = await client.request(method, path)

    refused(answer, 405, method)
    assert answer.headers["allow"] == allowed


@pytest.mark.parametrize(
    "path", ["/v2/nothing", "/v2/health", "/v2/repository", "/v2/models/a/b/versions/1/x/"]
)
async def test_other_paths_are_not_found(client: httpx.AsyncClient, path: str) -> None:
    refused(await client.get(path), 404)


async def test_head_is_answered_like_get(client: httpx.AsyncClient) -> None:
    assert (await client.head("/v2/health/ready")).status_code == 200


# With everything else


async def test_a_route_of_a_user_cannot_be_below_v2() -> None:
    router = SocaityRouter()

    @router.add_route("/v2/models/mine")
    def mine(x: int) -> int:
        return x

    async with open_client(router) as client:
        with pytest.raises(ConfigurationError, match="/v2"):
            await client.get("/v2")


async def test_the_routes_are_in_the_openapi_document(client: httpx.AsyncClient) -> None:
    paths = (await client.get("/openapi.json")).json()["paths"]

    assert "/v2/models/{model_name}/versions/{model_version}/infer" in paths
    ids = [operation["operationId"] for path in paths.values() for operation in path.values()]
    assert len(ids) == len(set(ids))


async def test_a_middleware_sees_the_requests(router: SocaityRouter) -> None:
    seen: list[str] = []

    class Recorder:
        def __init__(self, app: Any) -> None:
            self.app = app

        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            seen.append(scope["path"])
            await self.app(scope, receive, send)

    router.app.add_middleware(Recorder)
    array = np.ones((1, 100_000), np.float32)
    body, headers = binary_body(
        [(tensor("INPUT0", array, "FP32", binary=True), raw_of(array))],
        parameters={"binary_data_output": True},
    )

    async with open_client(router) as client:
        answer = await client.post("/v2/models/fp32/infer", content=body, headers=headers)
        listed = await client.get("/v2")

    assert answer.content.endswith(raw_of(array))
    assert int(answer.headers[LENGTH]) > 0
    assert listed.status_code == 200
    assert "/v2/models/fp32/infer" in seen


async def test_it_works_below_a_mount(router: SocaityRouter) -> None:
    from starlette.applications import Starlette
    from starlette.routing import Mount

    app = Starlette(routes=[Mount("/deep/down", router.app)])
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://test/deep/down") as client:
        ready = await client.get("/v2/models/simple/ready")
        wrong = await client.get("/v2/nothing")
    await router.dataplane.aclose(0.0)

    assert ready.json() == {"name": "simple", "ready": True}
    refused(wrong, 404)


async def test_who_may_not_ask_is_told_in_the_form_of_the_protocol() -> None:
    key = "k" * 32
    router = SocaityRouter(auth=Auth(api_keys={"me": key}), grace=1.0)
    router.add_model(Identity("float32"), name="fp32")
    body = {"inputs": [tensor("INPUT0", np.ones((1, 2)), "FP32")]}

    async with open_client(router) as client:
        anonymous = await client.post("/v2/models/fp32/infer", json=body)
        named = await client.post(
            "/v2/models/fp32/infer", json=body, headers={"authorization": f"Bearer {key}"}
        )
        live = await client.get("/v2/health/live")

    refused(anonymous, 401)
    assert anonymous.headers["www-authenticate"].startswith("Bearer")
    assert named.status_code == live.status_code == 200


async def test_a_page_of_another_origin_is_told_in_the_form_of_the_protocol(
    client: httpx.AsyncClient,
) -> None:
    answer = await client.post("/v2/repository/index", headers={"origin": "http://elsewhere.example"})

    refused(answer, 403)


async def test_too_many_requests_are_refused_in_the_form_of_the_protocol(router: SocaityRouter) -> None:
    router.app.limits = Limits(max_concurrent=None, rate_limit=1, rate_period=60.0, clock=lambda: 0.0)
    async with open_client(router) as client:
        await client.get("/v2")
        answer = await client.get("/v2")

    refused(answer, 429)
    assert int(answer.headers["retry-after"]) >= 1
