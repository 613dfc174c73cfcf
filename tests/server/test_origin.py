"""A page of another origin may not make a browser call the service."""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx
import pytest

from socaity_server import SocaityRouter


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    router = SocaityRouter()

    @router.add_route("/add")
    def add(a: int, b: int) -> int:
        return a + b

    transport = httpx.ASGITransport(router.app)
    async with httpx.AsyncClient(transport=transport, base_url="http://here:8000") as opened:
        yield opened
    await router.dataplane.aclose()


@pytest.mark.anyio
@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://here:9000"])
async def test_form_of_a_page_of_another_origin_is_refused(client: httpx.AsyncClient, origin: str) -> None:
    answer = await client.post("/add", data={"a": 1, "b": 2}, headers={"Origin": origin})
    assert answer.status_code == 403
    assert answer.json()["code"] == "cross_origin"


@pytest.mark.anyio
@pytest.mark.parametrize("headers", [{}, {"Origin": "http://here:8000"}])
async def test_programs_and_own_pages_are_served(client: httpx.AsyncClient, headers: dict[str, str]) -> None:
    assert (await client.post("/add", data={"a": 1, "b": 2}, headers=headers)).json() == 3
