"""The page and its socket, as plain ASGI: what is sent, when, to whom, and that nothing runs without a watcher."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import json
import re
from collections.abc import AsyncIterator
from typing import Any

import pytest
from starlette.requests import Request
from starlette.responses import Response

from socaity_server.frontends.dashboard import PROTOCOL, LiveFrontend, dashboard_page
from tests.server.live_doubles import FakeDataPlane, FakeDirect

from .conftest import SOON

pytestmark = pytest.mark.anyio
QUICK = 0.001
NEVER = 3600.0


class Watcher:
    """One client of the socket."""

    def __init__(self) -> None:
        self.incoming: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.sent: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.incoming.put_nowait({"type": "websocket.connect"})

    async def message(self) -> dict[str, Any]:
        """The next that the server sends."""
        async with asyncio.timeout(SOON):
            return await self.sent.get()

    async def snapshot(self) -> dict[str, Any]:
        message = await self.message()
        assert message["type"] == "websocket.send", message
        return json.loads(message["text"])


@contextlib.asynccontextmanager
async def watch(
    frontend: LiveFrontend,
    *,
    origin: str | None = None,
    protocols: tuple[str, ...] = (PROTOCOL,),
    owner: str = "",
) -> AsyncIterator[Watcher]:
    watcher = Watcher()
    headers = [(b"host", b"here:8000")]
    if origin is not None:
        headers.append((b"origin", origin.encode()))
    scope = {"type": "websocket", "path": "/ws", "headers": headers, "subprotocols": list(protocols)}
    if owner:
        scope["socaity.owner"] = owner
    task = asyncio.create_task(frontend(scope, watcher.incoming.get, watcher.sent.put))
    try:
        yield watcher
    finally:
        watcher.incoming.put_nowait({"type": "websocket.disconnect", "code": 1000})
        async with asyncio.timeout(SOON):
            await task


@pytest.fixture
def dataplane() -> FakeDataPlane:
    return FakeDataPlane(FakeDirect("mlp"))


async def get_page(**headers: str) -> Response:
    raw = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    return await dashboard_page(Request({"type": "http", "method": "GET", "headers": raw}))


async def test_page_comes_with_a_policy_that_lets_only_its_own_parts_run() -> None:
    page = await get_page()
    policy = page.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; ")
    assert "unsafe" not in policy
    assert "connect-src 'self'" in policy
    html = bytes(page.body).decode()
    for element in ("style", "script"):
        [text] = re.findall(rf"<{element}>(.*?)</{element}>", html, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{element}-src 'sha256-{digest}'" in policy
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert page.headers["x-content-type-options"] == "nosniff"


async def test_page_asks_nobody_else_and_writes_no_markup() -> None:
    html = bytes((await get_page()).body).decode()
    assert set(re.findall(r"https?://[^\s'\"<>]+", html)) == {"http://www.w3.org/2000/svg"}
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|\son\w+=", html)
    assert not re.search(r'\sstyle="', html)


async def test_page_is_not_sent_again_to_who_has_it() -> None:
    page = await get_page()
    tag = page.headers["etag"]
    for sent in (tag, f"W/{tag}", f'"other", {tag}', "*"):
        again = await get_page(if_none_match=sent)
        assert (again.status_code, again.body, again.headers["etag"]) == (304, b"", tag)
    assert (await get_page(if_none_match='"other"')).status_code == 200


async def test_first_snapshot_comes_at_once(dataplane: FakeDataPlane) -> None:
    dataplane.add_job()
    frontend = LiveFrontend(dataplane.as_dataplane, interval=NEVER)
    async with watch(frontend) as first, watch(frontend) as second:
        assert await first.message() == {"type": "websocket.accept", "subprotocol": PROTOCOL}
        snapshot = await first.snapshot()
        assert [model["name"] for model in snapshot["models"]] == ["mlp"]
        assert len(snapshot["jobs"]) == 1
        await second.message()
        assert (await second.snapshot())["models"] == snapshot["models"]


async def test_changes_are_sent_and_rates_with_them(dataplane: FakeDataPlane) -> None:
    frontend = LiveFrontend(dataplane.as_dataplane, interval=QUICK)
    async with watch(frontend) as watcher:
        await watcher.message()
        assert (await watcher.snapshot())["models"][0]["rates"] is None
        dataplane.models[0].work(calls=5)
        while (snapshot := await watcher.snapshot())["models"][0]["totals"]["calls"] == 0:
            pass
        assert snapshot["models"][0]["rates"]["calls"] > 0


async def test_quiet_service_gives_only_a_sign_of_life(dataplane: FakeDataPlane) -> None:
    frontend = LiveFrontend(dataplane.as_dataplane, interval=QUICK)
    async with watch(frontend) as watcher:
        await watcher.message()
        await watcher.snapshot()  # at once
        await watcher.snapshot()  # with rates
        before = dataplane.lists
        await watcher.snapshot()
        assert dataplane.lists - before >= 5  # the test may have come late


async def test_nothing_runs_without_a_watcher(dataplane: FakeDataPlane) -> None:
    frontend = LiveFrontend(dataplane.as_dataplane, interval=QUICK)
    before = asyncio.all_tasks()
    for _ in range(2):
        async with watch(frontend) as watcher:
            await watcher.message()
            await watcher.snapshot()
            assert frontend.watchers == 1
        assert frontend.watchers == 0
        looked = dataplane.lists
        for _ in range(20):
            await asyncio.sleep(0)
        assert asyncio.all_tasks() == before
        assert dataplane.lists == looked


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://here:9000"])
async def test_page_of_another_origin_sees_nothing(dataplane: FakeDataPlane, origin: str) -> None:
    frontend = LiveFrontend(dataplane.as_dataplane)
    async with watch(frontend, origin=origin) as watcher:
        assert (await watcher.message())["type"] == "websocket.close"
    async with watch(frontend, origin="http://here:8000") as watcher:
        assert (await watcher.message())["type"] == "websocket.accept"


async def test_other_subprotocols_are_refused(dataplane: FakeDataPlane) -> None:
    async with watch(LiveFrontend(dataplane.as_dataplane), protocols=("socaity.v1",)) as watcher:
        assert (await watcher.message())["type"] == "websocket.close"


async def test_too_many_watchers_are_told_to_come_later(dataplane: FakeDataPlane) -> None:
    frontend = LiveFrontend(dataplane.as_dataplane, max_watchers=1)
    async with watch(frontend) as first:
        await first.message()
        async with watch(frontend) as second:
            assert (await second.message())["type"] == "websocket.accept"
            assert (await second.message())["code"] == 1013
        assert frontend.watchers == 1
    async with watch(frontend) as third:
        await third.message()
        await third.snapshot()


async def test_slow_watcher_gets_the_newest_snapshot_and_holds_up_nobody(dataplane: FakeDataPlane) -> None:
    frontend = LiveFrontend(dataplane.as_dataplane, interval=QUICK)
    gate, started = asyncio.Event(), asyncio.Event()
    texts: list[str] = []
    incoming: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
    incoming.put_nowait({"type": "websocket.connect"})

    async def send(message: Any) -> None:
        if message["type"] == "websocket.send":
            started.set()
            await gate.wait()
            texts.append(message["text"])

    scope = {"type": "websocket", "headers": [], "subprotocols": [PROTOCOL]}
    async with watch(frontend) as quick:
        slow = asyncio.create_task(frontend(scope, incoming.get, send))
        async with asyncio.timeout(SOON):
            await started.wait()
        for calls in range(1, 6):
            dataplane.models[0].work()
            while True:
                message = await quick.message()
                if "text" in message and json.loads(message["text"])["models"][0]["totals"]["calls"] == calls:
                    break
        gate.set()
        dataplane.models[0].work()
        async with asyncio.timeout(SOON):
            while not texts or json.loads(texts[-1])["models"][0]["totals"]["calls"] < 6:
                await asyncio.sleep(0)
        incoming.put_nowait({"type": "websocket.disconnect"})
        await slow
    seen = [json.loads(text)["models"][0]["totals"]["calls"] for text in texts]
    assert seen == sorted(seen)
    assert not {1, 2, 3} & set(seen)


async def test_watchers_see_the_jobs_of_their_owner(dataplane: FakeDataPlane) -> None:
    dataplane.add_job(owner="ann", message="hers")
    frontend = LiveFrontend(dataplane.as_dataplane, interval=NEVER)
    async with watch(frontend, owner="ann") as ann, watch(frontend) as anybody:
        await ann.message(), await anybody.message()
        assert [job["message"] for job in (await ann.snapshot())["jobs"]] == ["hers"]
        assert (await anybody.snapshot())["jobs"] == []


async def test_failing_look_ends_nothing(
    dataplane: FakeDataPlane, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    frontend = LiveFrontend(dataplane.as_dataplane, interval=QUICK)
    async with watch(frontend) as watcher:
        await watcher.message()
        await watcher.snapshot()
        with monkeypatch.context() as patch:
            patch.setattr(dataplane, "load", lambda: 1 / 0)
            async with asyncio.timeout(SOON):
                while "a look at the service failed" not in caplog.text:
                    await asyncio.sleep(0)
        dataplane.models[0].work()
        while (await watcher.snapshot())["models"][0]["totals"]["calls"] == 0:
            pass


async def test_close_sends_everybody_away(dataplane: FakeDataPlane) -> None:
    frontend = LiveFrontend(dataplane.as_dataplane, interval=NEVER)
    async with watch(frontend) as watcher:
        await watcher.message()
        await watcher.snapshot()
        frontend.close()
        assert (await watcher.message()) == {"type": "websocket.close", "code": 1001}
