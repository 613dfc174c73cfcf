"""A page of another origin may not make a browser call the service."""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx
import pytest

from socaity_server import SocaityRouter
from tests.server.test_models_http import Scaler

pytestmark = pytest.mark.anyio
NAMED = "https://app.example"
FOREIGN = [
    {"Origin": "http://evil.example"},
    {"Origin": "null"},
    {"Origin": "http://here:9000"},
    {"Origin": "http://evil.example", "Sec-Fetch-Site": "cross-site"},
    {"Sec-Fetch-Site": "cross-site"},  # links, images and forms of old pages
    {"Sec-Fetch-Site": "same-site"},
]
OURS = [
    {},
    {"Origin": "http://here:8000"},
    {"Origin": "http://here:8000", "Sec-Fetch-Site": "same-origin"},
    {"Sec-Fetch-Site": "same-origin"},
    {"Sec-Fetch-Site": "none"},
    {"Origin": NAMED, "Sec-Fetch-Site": "cross-site"},
    {"Origin": NAMED, "Sec-Fetch-Site": "same-site"},
]


@pytest.fixture
def ran() -> list[str]:
    """The methods by which the function was called."""
    return []


@pytest.fixture
async def client(ran: list[str]) -> AsyncIterator[httpx.AsyncClient]:
    router = SocaityRouter(cors_origins=[NAMED])

    @router.add_route("/add")
    def add(a: int, b: int) -> int:
        ran.append("POST")
        return a + b

    for method in ("GET", "PUT", "PATCH"):

        def function(a: int, method: str = method) -> int:
            ran.append(method)
            return a

        function.__name__ = method.lower()
        router.add_route(f"/{method.lower()}", methods=[method])(function)

    router.add_model(Scaler(), name="scale")
    transport = httpx.ASGITransport(router.app)
    async with httpx.AsyncClient(transport=transport, base_url="http://here:8000") as opened:
        yield opened
    await router.dataplane.aclose()


@pytest.mark.parametrize("headers", FOREIGN)
async def test_form_of_a_page_of_another_origin_is_refused(
    client: httpx.AsyncClient, ran: list[str], headers: dict[str, str]
) -> None:
    for path, data in (("/add", {"a": 1, "b": 2}), ("/predict/scale", {"x": [1, 2]})):
        answer = await client.post(path, data=data, headers=headers)
        assert answer.status_code == 403
        assert answer.json()["code"] == "cross_origin"
    assert not ran


@pytest.mark.parametrize("headers", OURS)
async def test_programs_and_own_pages_are_served(
    client: httpx.AsyncClient, ran: list[str], headers: dict[str, str]
) -> None:
    assert (await client.post("/add", data={"a": 1, "b": 2}, headers=headers)).json() == 3
    assert (await client.get("/get?a=1", headers=headers)).json() == 1
    assert ran == ["POST", "GET"]


@pytest.mark.parametrize("headers", FOREIGN)
@pytest.mark.parametrize("method", ["GET", "PUT", "PATCH"])
async def test_page_of_another_origin_runs_nothing_by_any_method(
    client: httpx.AsyncClient, ran: list[str], method: str, headers: dict[str, str]
) -> None:
    path = f"/{method.lower()}"
    for ending in ("", "/", "%0A"):
        answer = await client.request(
            method, f"{path}{ending}?a=1", headers=headers, follow_redirects=ending == "/"
        )
        assert answer.status_code == 403
    assert not ran
    assert (await client.request(method, f"{path}?a=1")).status_code == 200
    assert ran == [method]


@pytest.mark.parametrize("headers", FOREIGN)
@pytest.mark.parametrize("path", ["/health", "/socaity", "/docs", "/openapi.json", "/dashboard"])
async def test_what_is_only_read_can_be_linked_to(
    client: httpx.AsyncClient, path: str, headers: dict[str, str]
) -> None:
    answer = await client.get(path, headers=headers)
    assert answer.status_code == 200
    assert "access-control-allow-origin" not in answer.headers  # and nothing of it can be seen there
