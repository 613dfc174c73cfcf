"""A service below a mount: the policy is asked about what is then called, whatever the mount is named."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from socaity_server import Auth, SocaityRouter
from socaity_server.frontends.limits import Limits
from tests.server.auth.peers import DEADLINE, Peer
from tests.server.conftest import open_client
from tests.server.test_models_http import Scaler

pytestmark = pytest.mark.anyio
KEY = "a-key-of-the-tests-0001"
MOUNTS = ["/api", "/predict", "/predict_batched", "/v2"]


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def agent() -> Iterator[Peer]:
    """Lets nobody infer."""

    def rules(question: dict[str, Any]) -> dict[str, bool]:
        return {"result": question["input"]["action"] != "infer"}

    with Peer(rules) as peer:
        yield peer


def mounted(place: str, router: SocaityRouter) -> httpx.AsyncClient:
    outer = FastAPI()
    outer.mount(place, router.app)
    return httpx.AsyncClient(transport=httpx.ASGITransport(outer), base_url="http://test")


@pytest.mark.parametrize("place", MOUNTS)
async def test_policy_holds_below_every_mount(place: str, agent: Peer) -> None:
    auth = Auth(api_keys={"p": KEY}, opa_url=agent.url, policy_timeout=DEADLINE)
    router = SocaityRouter(auth=auth, grace=1.0)
    scaler = Scaler()
    router.add_model(scaler, name="scale")
    async with open_client(router), mounted(place, router) as client:
        client.headers["X-API-Key"] = KEY
        for path, status in (
            ("/predict/scale", 403),
            ("/predict_batched/scale", 403),
            ("/v2/models/scale/infer", 403),
            ("/scale", 404),
            ("/models/scale/infer", 404),
        ):
            answer = await client.post(place + path, json={"x": [1, 2]})
            assert (path, answer.status_code) == (path, status)
        assert (await client.get(f"{place}/jobs")).status_code == 200
    assert not scaler.started.is_set()


@pytest.mark.parametrize("place", MOUNTS)
async def test_models_answer_at_their_own_paths_below_every_mount(place: str) -> None:
    router = SocaityRouter(auth=False, grace=1.0)
    router.add_model(Scaler(), name="scale")
    router.app.limits = Limits(max_concurrent=None, rate_limit=3, rate_period=600.0)
    async with open_client(router), mounted(place, router) as client:
        for path, answer in (
            ("/predict/scale", [2, 4]),
            ("/predict_batched/scale", [2, 4]),
            ("/scale", None),
        ):
            found = await client.post(place + path, json={"x": [1, 2]})
            assert found.status_code == (200 if answer else 404)
            assert not answer or found.json() == answer
        assert (await client.get(f"{place}/jobs")).status_code == 429
        assert (await client.get(f"{place}/health")).status_code == 200  # which is not limited
