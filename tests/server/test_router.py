"""SocaityRouter: settings, conflicts, parameters, batched routes and models."""

from __future__ import annotations

import base64
import dataclasses
import datetime
import enum
import hashlib
import json
import re
from typing import Any, Literal

import httpx
import numpy as np
import pytest
from fastapi import FastAPI
from pydantic import BaseModel

from socaity.exceptions import ConfigurationError, InvalidInputError
from socaity_server import JobProgress, SocaityRouter
from socaity_server.cli import serve as serve_command
from socaity_server.route import Route
from socaity_server.runtimes.base import Runtime, TensorSpec
from socaity_server.settings import read_settings

from .conftest import open_client

pytestmark = pytest.mark.anyio


class Doubler(Runtime):
    name = "double 1"
    inputs = (TensorSpec("x", "float32", (None, 2)),)
    outputs = (TensorSpec("y", "float32", (None, 2)),)
    batched = True

    def run(self, inputs: Any) -> Any:
        return {"y": inputs["x"] * 2}


def test_unknown_provider_and_environment_name_the_valid_ones() -> None:
    with pytest.raises(ConfigurationError, match="fastapi"):
        SocaityRouter(provider="flask")
    with pytest.raises(ConfigurationError, match=r"not built yet.*'fastapi'"):
        SocaityRouter(provider="runpod")
    with pytest.raises(ConfigurationError, match="did you mean 'serverless'"):
        SocaityRouter(environment="serverles")


@pytest.mark.parametrize("name", ["EXECUTION_ENVIRONMENT", "EXECUTION_ENVIORNMENT"])
def test_both_spellings_of_the_environment_are_read(name: str) -> None:
    assert read_settings(environ={name: "local"}).environment == "local"
    assert read_settings(environ={name: "local"}, environment="hosted").environment == "hosted"


def test_address_comes_from_the_environment_and_is_loopback_by_default() -> None:
    assert read_settings(environ={}).host == "127.0.0.1"
    settings = read_settings(environ={"FASTAPI_HOST": "0.0.0.0", "FASTAPI_PORT": "81"})
    assert (settings.host, settings.port) == ("0.0.0.0", 81)
    with pytest.raises(ConfigurationError, match="FASTAPI_PORT"):
        read_settings(environ={"FASTAPI_PORT": "many"})


def test_forgotten_path_and_a_module_as_a_type_are_errors_when_they_are_written(
    router: SocaityRouter,
) -> None:
    with pytest.raises(ConfigurationError, match=r"@router\.add_route\('/shout'\)"):

        @router.add_route  # type: ignore[arg-type]
        def shout(text: str) -> str:
            return text

    def total(numbers: json) -> int:  # type: ignore[valid-type]
        return 0

    def moment(when: datetime) -> int:  # type: ignore[valid-type]
        return 0

    with pytest.raises(ConfigurationError, match="The type of 'numbers' is the module json"):
        router.add_route("/total")(total)
    with pytest.raises(ConfigurationError, match=r"did you mean datetime\.datetime"):
        router.add_route("/moment")(moment)


def test_decorated_function_stays_what_it_is(router: SocaityRouter) -> None:
    def predict(text: str) -> str:
        return text

    assert router.add_route("/predict")(predict) is predict


@pytest.mark.parametrize("path", ["/jobs/x", "/health", "/status", "/docs", "/blobs/x", "/ws"])
def test_collision_with_the_service_is_an_error_at_start(router: SocaityRouter, path: str) -> None:
    router.add_route(path)(lambda: 1)
    with pytest.raises(ConfigurationError, match=path):
        router.start(port=0)


def test_two_routes_at_one_place_name_both(router: SocaityRouter) -> None:
    def first() -> int:
        return 1

    def second() -> int:
        return 2

    router.add_route("/a/b")(first)
    router.add_route("/a_b")(second)
    with pytest.raises(ConfigurationError, match=r"second.*first"):
        router.start(port=0)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"queue_size": -1}, "queue_size"),
        ({"concurrency": 0}, "concurrency"),
        ({"timeout": 0}, "timeout"),
        ({"max_batch_wait": 1.0}, "max_batch_size"),
        ({"methods": ("FETCH",)}, "FETCH"),
    ],
)
def test_wrong_options_are_refused(router: SocaityRouter, options: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigurationError, match=text):
        router.add_route("/x", **options)(lambda: 1)


def test_unresolvable_annotation_is_an_error() -> None:
    def predict(x: Nowhere) -> None:  # type: ignore[name-defined]  # noqa: F821
        ...

    with pytest.raises(ConfigurationError, match="Nowhere"):
        Route.from_function("/x", predict)


class Colour(enum.Enum):
    RED = "red"


class Size(BaseModel):
    width: int


@dataclasses.dataclass
class Point:
    x: float


def everything(
    progress: JobProgress,
    number: int,
    colour: Colour,
    size: Size,
    point: Point,
    mode: Literal["a", "b"] = "a",
    maybe: int | None = None,
    raw: bytes = b"",
    array: np.ndarray[Any, np.dtype[np.float32]] | None = None,
    **rest: int,
) -> str:
    return "x"


def test_arguments_become_what_the_function_wants() -> None:
    route = Route.from_function("/everything", everything)
    assert route.progress_name == "progress"
    values = route.validate(
        {
            "number": "2",
            "colour": "red",
            "size": {"width": 3},
            "point": {"x": 1},
            "mode": "b",
            "raw": "aGk=",
            "array": [[1, 2]],
            "more": "5",
        }
    )
    array = values.pop("array")
    assert (array.dtype, array.shape) == (np.float32, (1, 2))
    assert values == {
        "number": 2,
        "colour": Colour.RED,
        "size": Size(width=3),
        "point": Point(1.0),
        "mode": "b",
        "raw": b"hi",
        "more": 5,
    }


@pytest.mark.parametrize(
    ("arguments", "parameter", "text"),
    [
        ({}, "number", "needs the parameter 'number'"),
        ({"number": "two"}, "number", "valid integer.*got str 'two'"),
        ({"number": 1, "colour": "blue"}, "colour", "'red'"),
        ({"number": 1, "colour": "red", "size": {}}, "size", r"\['width'\]: Field required"),
        (
            {"number": 1, "colour": "red", "size": {"width": 1}, "point": {"x": 1}, "raw": "%"},
            "raw",
            "base64",
        ),
    ],
)
def test_wrong_arguments_name_the_parameter(arguments: dict[str, Any], parameter: str, text: str) -> None:
    with pytest.raises(InvalidInputError, match=text) as refusal:
        Route.from_function("/everything", everything).validate(arguments)
    assert refusal.value.parameter == parameter


def test_unknown_argument_gets_a_suggestion() -> None:
    def predict(text: str, steps: int = 4) -> None: ...

    with pytest.raises(InvalidInputError, match="did you mean 'steps'") as refusal:
        Route.from_function("/predict", predict).validate({"text": "a", "step": 1})
    assert refusal.value.parameter == "step"


def test_description_shows_schemas_defaults_and_return() -> None:
    def predict(text: str, steps: int = 4) -> list[float]:
        """Paint it."""

    description = Route.from_function("/image/paint", predict, queue_size=3).describe()
    assert (description.name, description.path, description.doc) == (
        "image_paint",
        "/image/paint",
        "Paint it.",
    )
    assert [(p.name, p.required, p.default, p.json_schema) for p in description.parameters] == [
        ("text", True, None, {"type": "string"}),
        ("steps", False, 4, {"type": "integer"}),
    ]
    assert description.returns == {"type": "array", "items": {"type": "number"}}
    assert (description.queue_size, description.direct, description.streaming) == (3, False, False)


async def test_job_progress_is_injected_by_name_or_annotation(
    router: SocaityRouter, client: httpx.AsyncClient
) -> None:
    @router.add_route("/by_name")
    def by_name(job_progress, x: int):  # type: ignore[no-untyped-def]
        return type(job_progress).__name__

    @router.add_route("/by_type")
    def by_type(how: JobProgress, x: int) -> str:
        return type(how).__name__

    for path in ("/by_name", "/by_type"):
        assert (await client.post(path, json={"x": 1})).json() == "JobProgress"


async def test_batched_route_gets_stacked_items(router: SocaityRouter, client: httpx.AsyncClient) -> None:
    shapes = []

    @router.add_route("/classify", max_batch_size=8)
    def classify(x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        shapes.append(x.shape)
        return x.sum(axis=1)

    answer = await client.post("/classify", json={"x": [1, 2, 3]})
    assert (answer.status_code, answer.json()) == (200, 6)
    assert shapes == [(1, 3)]


async def test_batched_function_that_raises_is_a_failure(
    router: SocaityRouter, client: httpx.AsyncClient
) -> None:
    @router.add_route("/classify", max_batch_size=8)
    def classify(x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        raise ValueError("bad weights")

    answer = await client.post("/classify", json={"x": [1]})
    assert answer.status_code == 500
    assert (answer.json()["code"], answer.json()["detail"]) == ("job_failed", "ValueError: bad weights")


async def test_model_answers_features_names_and_single_items(
    router: SocaityRouter, client: httpx.AsyncClient
) -> None:
    router.add_model(Doubler(), name="double")
    (listed,) = (await client.get("/available_models")).json()["models"]
    assert listed["name"] == "double"
    answer = await client.post("/predict/double", json={"features": [[1, 2], [3, 4]]})
    assert answer.json() == {"model": "double", "predictions": [[2, 4], [6, 8]]}
    assert (await client.post("/predict/double", json={"features": [1, 2]})).json()["predictions"] == [[2, 4]]
    assert (await client.post("/predict/double", json={"x": [[1, 2]]})).json() == [[2, 4]]
    assert (await client.post("/predict/double", json={"x": [1, 2]})).json() == [2, 4]
    asked = await client.post("/predict/double", json={"x": [1, 2]}, headers={"Prefer": "respond-async"})
    assert (asked.status_code, asked.json()) == (200, [2, 4])


@pytest.mark.parametrize(
    ("features", "text"),
    [
        ([[1, 2, 3]], r"shape \[2\]"),
        ([[1], [1, 2]], "different lengths"),
        ([["a", "b"]], "text"),
        ([[None, 1]], "something else"),
        ([], "shape"),
        ("12", "numbers"),
    ],
)
async def test_wrong_features_are_refused(
    router: SocaityRouter, client: httpx.AsyncClient, features: Any, text: str
) -> None:
    router.add_model(Doubler(), name="double")
    answer = await client.post("/predict/double", json={"features": features})
    assert answer.status_code == 422
    assert answer.json()["parameter"] == "x"
    answer_text = answer.json()["detail"]
    assert any(part in answer_text for part in [text.replace("\\", ""), text]), answer_text


async def test_service_with_a_model_can_be_started_again(router: SocaityRouter) -> None:
    router.add_model(Doubler(), name="double")
    for _ in range(2):
        await router.dataplane.start()
        result = await router.dataplane.invoke(router.dataplane.route("double"), {"x": [1, 2]})
        assert result.tolist() == [2, 4]
        await router.dataplane.aclose()


async def test_model_answers_below_a_mount(router: SocaityRouter) -> None:
    router.add_model(Doubler(), name="double")
    outer = FastAPI()
    outer.mount("/inner", router.app)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(outer), base_url="http://test") as client:
        answer = await client.post("/inner/predict/double", json={"features": [[1, 2]]})
    assert answer.json()["predictions"] == [[2, 4]]
    await router.dataplane.aclose()


async def test_openapi_describes_every_route(router: SocaityRouter, client: httpx.AsyncClient) -> None:
    @router.add_route("/paint", queue_size=1)
    def paint(text: str, steps: int = 4) -> str:
        """Paint it."""
        return text

    schema = (await client.get("/openapi.json")).json()
    assert schema["info"]["x-socaity"] == {"protocol": "socaity.v1", "socket": "/ws"}
    operation = schema["paths"]["/paint"]["post"]
    body = operation["requestBody"]["content"]["application/json"]["schema"]
    assert body["properties"]["steps"] == {"type": "integer", "default": 4}
    assert body["required"] == ["text"]
    assert operation["description"] == "Paint it."
    assert {"200", "202"} <= operation["responses"].keys()
    assert {"/socaity", "/jobs/{job_id}", "/jobs/{job_id}/events", "/blobs/{sha256}"} <= schema[
        "paths"
    ].keys()
    assert (await client.get("/docs")).status_code == 200


def test_serve_command_explains_wrong_targets(capsys: pytest.CaptureFixture[str]) -> None:
    assert serve_command(["nowhere"]) == 2
    assert serve_command(["no_such_module_here:router"]) == 2
    assert serve_command(["missing.onnx"]) == 2
    errors = capsys.readouterr().err
    assert "module:router" in errors
    assert "no_such_module_here" in errors
    assert "missing.onnx" in errors


async def test_page_of_the_documentation_runs_nothing_but_what_it_names() -> None:
    async with open_client(SocaityRouter(title="<b>mine</b>")) as client:
        answer = await client.get("/docs")
    assert "<title>&lt;b&gt;mine&lt;/b&gt;</title>" in answer.text
    assert 'data-schema="/openapi.json"' in answer.text
    loaded = re.findall(r"<(?:script|link)[^>]*(?:src|href)=[^>]*>", answer.text)
    assert len(loaded) == 2
    for tag in loaded:
        assert re.search(r'="https://[^"]+@\d+\.\d+\.\d+/[^"]+" integrity="sha384-[\w+/]{64}"', tag)
    (inline,) = re.findall(r"<script>(.+?)</script>", answer.text)
    digest = base64.b64encode(hashlib.sha256(inline.encode()).digest()).decode()
    policy = answer.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; script-src https://")
    assert f"'sha256-{digest}'" in policy
    assert "unsafe" not in policy.partition("style-src")[0]
