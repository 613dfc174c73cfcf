"""References in arguments: what they may say, how much they may bring, and that looking for them costs little."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable
from typing import Any
from unittest import mock

import httpx
import numpy as np
import orjson
import pytest

import socaity
from socaity.exceptions import InvalidInputError
from socaity.protocol.messagepack import packb
from socaity_server import SocaityRouter
from socaity_server.references import (
    MAX_REFERENCES,
    ReadArguments,
    Reference,
    check_path,
    find_references,
    find_top_references,
    has_marks,
    replaced,
)
from tests.server.test_models_http import Scaler

pytestmark = pytest.mark.anyio
JOB = "0" * 31 + "1"
BLOB = "ab" * 32
DEADLINE = 20.0
MSGPACK = "application/vnd.socaity+msgpack"


@pytest.fixture
def router(router: SocaityRouter) -> SocaityRouter:
    @router.add_route("/array", queue_size=10)
    def array(n: int) -> np.ndarray:
        return np.arange(n, dtype=np.float32)[None]

    @router.add_route("/echo")
    def echo(x: Any) -> Any:
        return x

    @router.add_route("/keep", queue_size=100)
    def keep(x: Any) -> Any:
        return x

    @router.add_route("/count")
    def count(x: list[bytes]) -> list[int]:
        return [len(one) for one in x]

    @router.add_route("/same")
    def same(x: list[Any]) -> bool:
        return all(one is x[0] for one in x)

    @router.add_route("/add", max_batch_size=4)
    def add(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return x + y

    @router.add_route("/whole")
    def whole(n: int) -> int:
        return n

    return router


async def job_of(client: httpx.AsyncClient, path: str, **arguments: Any) -> str:
    answer = await client.post(path, params={"sync": "true"}, json=arguments)
    return str(answer.json()["id"])


async def upload(client: httpx.AsyncClient, data: bytes) -> str:
    sha256 = hashlib.sha256(data).hexdigest()
    assert (await client.put(f"/blobs/{sha256}", content=data)).status_code == 201
    return sha256


# -- the words ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({"$job": JOB}, Reference("job", JOB)),
        ({"$job": JOB, "path": None}, Reference("job", JOB)),
        ({"$job": JOB, "path": ["a", 0]}, Reference("job", JOB, ("a", 0))),
        ({"$call": 3, "path": []}, Reference("call", "3")),
        ({"$blob": BLOB}, Reference("blob", BLOB)),
        ({"$packed": BLOB, "size": 5}, Reference("packed", BLOB, size=5)),
        (
            {"$packed": BLOB, "size": 5, "from": "u", "token": "t"},
            Reference("packed", BLOB, (), 5, ("u", "t")),
        ),
        ({"$job": JOB, "path": 5}, None),
        ({"$job": JOB, "more": 5}, None),
        ({"$call": True}, None),
        ({"$blob": BLOB, "more": 1}, None),
        ({"job": JOB}, None),
        ({"$packed": BLOB, "size": 5, "a": 1, "b": 2, "c": 3}, None),
    ],
)
def test_what_is_a_reference(value: Any, expected: Reference | None) -> None:
    found = find_references({"x": [{"deep": [1, value]}], "y": 5})
    assert found == ([] if expected is None else [("x", expected)])


@pytest.mark.parametrize("step", [[0], {}, None, True, 1.0, b"a", [[0], [0, 1]]])
def test_a_step_is_a_text_or_a_whole_number(step: Any) -> None:
    with pytest.raises(InvalidInputError, match="a text or a whole number"):
        check_path(["a", step])
    with pytest.raises(InvalidInputError, match="a text or a whole number"):
        find_references({"x": {"$job": JOB, "path": [step]}})


def test_a_path_and_the_number_of_references_have_an_end() -> None:
    with pytest.raises(InvalidInputError, match="128 steps"):
        check_path([0] * 129)
    many = {"x": [{"$call": n} for n in range(MAX_REFERENCES + 1)]}
    with pytest.raises(InvalidInputError, match="references") as caught:
        find_references(many)
    assert (caught.value.status, caught.value.code) == (413, "too_large")


def test_references_are_replaced_in_their_order() -> None:
    value = {"a": [{"$call": 1}, [], {}, [1, 2], {"b": {"$call": 2}}], "c": {"$job": JOB}}
    (found, *rest) = [reference.id for _, reference in find_references({"x": value})]
    assert (found, rest) == ("1", ["2", JOB])
    assert replaced(value, iter("xyz")) == {"a": ["x", [], {}, [1, 2], {"b": "y"}], "c": "z"}


def test_what_was_looked_through_is_not_looked_through_again() -> None:
    arguments = ReadArguments({"x": {"$call": 1}, "y": [{"$call": 2}]}, [("x", Reference("call", "1"))])
    assert find_references(arguments) == find_top_references(arguments) == [("x", Reference("call", "1"))]
    assert [name for name, _ in find_top_references(dict(arguments))] == ["x"]


@pytest.mark.parametrize(
    "body", [b'{"$job":1}', b'[{"a":{"$blob":""}}]', b'{"$call":1}', b'{"$packed":1}', b'{"\\u0024job":1}']
)
def test_marks_are_seen_however_they_are_written(body: bytes) -> None:
    assert has_marks(body)
    assert find_references({"x": orjson.loads(body)}) == [] or b"$" in body


def test_bodies_without_marks_are_not_looked_through() -> None:
    assert not has_marks(b'{"price": "5 $", "job": 1}')


# -- paths into results ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", [[0] * 1000, [[0], [0, 1]], {}, None, True, 0.0])
async def test_a_path_is_no_index_of_arrays(client: httpx.AsyncClient, step: Any) -> None:
    job = await job_of(client, "/array", n=1000)
    answer = await client.post("/echo", json={"x": {"$job": job, "path": [step]}})
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_input")


@pytest.mark.parametrize("path", [["x"], [10**15], [0, 2**62], [2**63], [-5], [0, 0, 0], [0, 0, "x"]])
async def test_a_part_that_is_not_there_is_told(client: httpx.AsyncClient, path: list[Any]) -> None:
    job = await job_of(client, "/array", n=10)
    answer = await client.post("/echo", json={"x": {"$job": job, "path": path}})
    assert answer.json()["code"] == "upstream_failed"
    assert "whose result has no" in answer.json()["detail"]
    answer = await client.post("/echo", json={"x": {"$job": job, "path": [0, -1]}})
    assert answer.json() == 9.0


# -- how much they bring -----------------------------------------------------------------------------------------------


def limit(router: SocaityRouter, size: int) -> None:
    router.dataplane.max_fetch = router.dataplane.max_body = size


@pytest.mark.parametrize("path", ["/count", "/echo", "/keep"])
async def test_an_upload_counts_as_often_as_it_is_referred_to(
    router: SocaityRouter, client: httpx.AsyncClient, path: str
) -> None:
    limit(router, 1_000_000)
    sha256 = await upload(client, b"a" * 100_000)
    answer = await client.post(path, json={"x": [{"$blob": sha256}] * 11})
    assert (answer.status_code, answer.json()["code"]) == (413, "too_large")
    assert "1000000 bytes" in answer.json()["detail"]
    answer = await client.post("/count", json={"x": [{"$blob": sha256}] * 9})
    assert answer.json() == [100_000] * 9


async def test_an_upload_is_read_once_for_a_call(router: SocaityRouter, client: httpx.AsyncClient) -> None:
    sha256 = await upload(client, b"a" * 1000)
    packed = await upload(client, packb({"a": [1, 2]}))
    opened = router.dataplane.blobs.open
    with mock.patch.object(router.dataplane.blobs, "open", side_effect=opened) as opening:
        answer = await client.post("/same", json={"x": [{"$blob": sha256}] * 50})
        assert answer.json() is True
        answer = await client.post("/same", json={"x": [{"$packed": packed, "size": 1}] * 50})
        assert answer.json() is True
        assert opening.call_count == 2


async def test_results_of_results_do_not_grow_without_end(
    router: SocaityRouter, client: httpx.AsyncClient
) -> None:
    limit(router, 10_000_000)
    job = await job_of(client, "/keep", x=["a"])
    for _ in range(2):
        job = await job_of(client, "/keep", x=[{"$job": job}] * 100)
    answer = await client.post("/keep", params={"sync": "true"}, json={"x": [{"$job": job}] * 100})
    assert answer.json()["status"] == "failed"
    assert (answer.json()["error"]["status"], answer.json()["error"]["code"]) == (413, "too_large")
    answer = await client.post("/echo", json={"x": [{"$job": job}] * 100})
    assert (answer.status_code, answer.json()["code"]) == (413, "too_large")
    assert (await client.post("/echo", json={"x": {"$job": job}})).status_code == 200


@pytest.mark.parametrize(
    "value",
    [
        np.zeros(200_000, np.uint8),
        b"a" * 200_000,
        "a" * 200_000,
        [0] * 4000,
        {str(n): n for n in range(4000)},
        [[]] * 4000,
        [["a" * 1000] * 10] * 20,
    ],
    ids=["array", "bytes", "text", "numbers", "map", "lists", "texts"],
)
async def test_whatever_a_packed_value_is_it_counts(
    router: SocaityRouter, client: httpx.AsyncClient, value: Any
) -> None:
    data = packb(value)
    sha256 = await upload(client, data)
    reference = {"$packed": sha256, "size": len(data)}
    assert (await client.post("/same", json={"x": [reference] * 5})).json() is True
    limit(router, 1_000_000)
    answer = await client.post("/same", json={"x": [reference] * 6})
    assert (answer.status_code, answer.json()["code"]) == (413, "too_large")
    limit(router, max(len(data), 4000))
    answer = await client.post("/same", json={"x": [reference]})
    assert answer.status_code == (413 if type(value) in (list, dict) else 200)


async def test_what_a_result_holds_is_no_reference(client: httpx.AsyncClient) -> None:
    sha256 = await upload(client, packb({"$blob": BLOB}))
    answer = await client.post("/echo", json={"x": {"$packed": sha256, "size": 1}})
    assert answer.json() == {"$blob": BLOB}
    answer = await client.post("/add", json={"x": {"$packed": sha256, "size": 1}, "y": [1.0]})
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_input")


async def test_items_of_lists_of_arrays_are_replaced_in_batched_calls(client: httpx.AsyncClient) -> None:
    job = await job_of(client, "/keep", x=2.0)
    answer = await client.post("/add", json={"x": {"$job": job}, "y": 1.0})
    assert answer.json() == 3.0
    answer = await client.post("/add", json={"x": [{"$job": job}, 5.0], "y": [1.0, 1.0]})
    assert answer.json() == [3.0, 6.0]
    whole = await job_of(client, "/keep", x=[1.0, 1.0])
    answer = await client.post("/add", json={"x": [{"$job": job}, 5.0], "y": {"$job": whole}})
    assert answer.json() == [3.0, 6.0]


async def test_arguments_in_the_query_take_the_place_of_those_in_the_body(client: httpx.AsyncClient) -> None:
    job = await job_of(client, "/keep", x=2)
    answer = await client.post("/whole", params={"n": "5"}, json={"n": {"$job": job}})
    assert answer.json() == 5


# -- what it costs -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["application/json", MSGPACK])
@pytest.mark.parametrize("path", ["/whole", "/keep", "/add"])
async def test_a_body_with_very_many_lists_is_refused(
    client: httpx.AsyncClient, kind: str, path: str
) -> None:
    count = 2**20
    body = (
        b'{"n":[' + b"[]," * count + b"0]}"
        if kind == "application/json"
        else b"\x81\xa1n\xdd" + count.to_bytes(4, "big") + b"\x80" * count
    )
    answer = await client.post(path, content=body, headers={"Content-Type": kind})
    assert (answer.status_code, answer.json()["code"]) == (413, "too_large")
    assert "1048576 lists and maps" in answer.json()["detail"]


async def test_brackets_in_texts_and_numbers_in_lists_are_not_counted(client: httpx.AsyncClient) -> None:
    text = '\\"[{' * 600_000
    answer = await client.post("/echo", json={"x": [text]})
    assert answer.json() == [text]
    numbers = list(range(1_000_000))
    assert (await client.post("/echo", json={"x": numbers})).json() == numbers


async def test_forms_have_the_same_limit(client: httpx.AsyncClient) -> None:
    answer = await client.post("/count", data={"x": "[" + "[]," * 2**20 + "[]]"})
    assert (answer.status_code, answer.json()["code"]) == (413, "too_large")


def test_models_take_large_bodies_and_refuse_very_many_lists(
    live_server: Callable[[SocaityRouter], str], router: SocaityRouter
) -> None:
    router.add_model(Scaler(), name="scale")
    url = live_server(router)
    with httpx.Client(base_url=url, timeout=DEADLINE) as client:
        rows = [[1.0, 2.0]] * 40_000
        answer = client.post("/predict/scale", json={"features": rows})
        assert answer.json()["predictions"][-1] == [2.0, 4.0]
        assert client.post("/predict/scale", json={"x": rows}).json()[0] == [2.0, 4.0]
        tensor = packb({"x": np.ones((100_000, 2), np.float32)})
        headers = {"Content-Type": MSGPACK, "Accept": MSGPACK}
        answer = client.post("/predict/scale", content=tensor, headers=headers)
        assert answer.status_code == 413  # more rows than can ever wait
        assert answer.headers["content-type"] == "application/problem+json"
        for kind, body in (
            ("application/json", b'{"x":[' + b"[]," * 2**20 + b"[]]}"),
            (MSGPACK, b"\x81\xa1x\xdd" + (2**20).to_bytes(4, "big") + b"\x90" * 2**20),
        ):
            answer = client.post("/predict/scale", content=body, headers={"Content-Type": kind})
            assert (answer.status_code, answer.json()["code"]) == (413, "too_large")
            assert "1048576 lists and maps" in answer.json()["detail"]
        sha256 = hashlib.sha256(packed := packb(rows[:2])).hexdigest()
        assert client.put(f"/blobs/{sha256}", content=packed).status_code == 201
        large = {"x": {"$packed": sha256, "size": len(packed)}, "y": "a" * 300_000}
        assert client.post("/predict/scale", json=large).status_code == 422
        del large["y"]
        assert client.post("/predict/scale", json=large).json() == [[2.0, 4.0]] * 2


def test_a_call_with_very_many_lists_ends_alone_on_the_socket(
    live_server: Callable[[SocaityRouter], str], router: SocaityRouter
) -> None:
    url = live_server(router)
    with socaity.connect(url, progress=False) as service:
        calls = [service.echo(1), service.echo([[]] * 2**20), service.echo([0] * 2**21), service.echo(2)]
        with pytest.raises(InvalidInputError, match="1048576 lists, maps and tensors") as caught:
            calls[1].result(DEADLINE)
        assert (caught.value.status, caught.value.code) == (413, "too_large")
        assert len(calls[2].result(DEADLINE)) == 2**21
        assert [calls[0].result(DEADLINE), calls[3].result(DEADLINE)] == [1, 2]


async def test_large_bodies_are_read_beside_the_loop(client: httpx.AsyncClient) -> None:
    with mock.patch("asyncio.to_thread", side_effect=asyncio.to_thread) as beside:
        assert (await client.post("/echo", json={"x": "a" * 200_000})).status_code == 200
        assert "_decode" not in str(beside.call_args_list)
        assert (await client.post("/echo", json={"x": "a" * 300_000})).status_code == 200
        assert "_decode" in str(beside.call_args_list)
