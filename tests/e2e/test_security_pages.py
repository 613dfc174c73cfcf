"""Browsers: logging in, what a cookie is good for and what not, and pages of other origins."""

from __future__ import annotations

import re
from collections.abc import Iterator
from urllib.parse import urlsplit

import httpx
import numpy as np
import pytest
from fastapi import WebSocket
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect
from websockets.typing import Origin, Subprotocol

from socaity_server import Auth, SocaityRouter
from tests.e2e.browser import Browser, Page
from tests.server.auth.issuer import SECRET, make_token
from tests.server.auth.peers import Peer
from tests.server.conftest import serve

DEADLINE = 20
KEY = "a-key-of-the-tests-0001"


def make_router(*origins: str, auth: Auth | bool = True) -> SocaityRouter:
    given = Auth(api_keys={"program": KEY}, secret=SECRET) if auth is True else auth
    router = SocaityRouter(auth=given, grace=1.0, cors_origins=origins)

    @router.add_route("/greet", queue_size=10)
    def greet(name: str) -> str:
        return f"hello {name}"

    @router.add_route("/double", max_batch_size=4)
    def double(x: np.ndarray) -> np.ndarray:
        return x * 2

    return router


@pytest.fixture(scope="module")
def service() -> Iterator[str]:
    with serve(make_router()) as url:
        yield url


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with Browser() as browser:
        yield browser


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    with browser.open() as page:
        yield page


def wait_for(page: Page, condition: str) -> None:
    """As `page.wait_for`, over the navigations that a form makes."""
    for _ in range(5):
        try:
            page.wait_for(condition)
            return
        except AssertionError as exc:
            if not re.search("navigated|context|collected", str(exc)):
                raise
    raise AssertionError(f"the page does not come to rest: {condition}")


def log_in(page: Page, token: str) -> None:
    page.run(f"document.querySelector('input[name=token]').value = {token!r}; document.forms[0].submit()")


def test_dashboard_in_a_browser(service: str, page: Page) -> None:
    page.goto(f"{service}/dashboard")
    wait_for(page, "document.querySelector('h1').textContent === 'Log in'")
    assert page.run("document.querySelector('[role=alert]')") is None
    log_in(page, "a wrong key")
    wait_for(page, "document.querySelector('[role=alert]').textContent.includes('not')")
    assert "a wrong key" not in page.run("document.documentElement.outerHTML")
    page.complaints.clear()
    log_in(page, KEY)
    wait_for(
        page, "location.pathname === '/dashboard' && document.querySelector('input[name=token]') === null"
    )
    # what comes over the live socket
    wait_for(page, "document.querySelector('#connection').dataset.kind === 'good'")
    assert page.run("document.cookie") == ""
    assert not page.complaints
    page.goto(f"{service}/docs")
    assert "swagger" in page.run("document.documentElement.outerHTML").lower()
    page.goto(f"{service}/login")
    assert "logged in as program" in page.run("document.body.textContent")
    page.run("document.forms[1].submit()")
    wait_for(page, "document.forms.length === 1")
    page.goto(f"{service}/dashboard")
    wait_for(page, "document.querySelector('h1').textContent === 'Log in'")


def test_dashboard_asks_to_log_in_again_when_the_token_has_ended(service: str, page: Page) -> None:
    page.goto(f"{service}/dashboard")
    log_in(page, make_token(lasts=3))
    wait_for(page, "document.querySelector('#connection')?.dataset.kind === 'good'")
    wait_for(page, "document.querySelector('h1')?.textContent === 'Log in'")


def test_page_of_another_port_has_nothing_of_the_cookie(service: str, page: Page) -> None:
    """For a browser it is the same site, which is sent the cookie: the origin has to be looked at."""
    with Peer(lambda _: b"<!doctype html><title>evil</title><p>evil") as evil:
        page.goto(f"{service}/login")
        log_in(page, KEY)
        wait_for(page, "location.pathname === '/dashboard'")
        page.goto(f"{evil.url}/")
        socket = service.replace("http", "ws", 1) + "/ws"
        opened = """new Promise((done) => {
            const one = new WebSocket(URL_, PROTOCOL);
            one.onopen = () => done("open"); one.onerror = () => done("refused"); })"""
        for protocol in ("socaity.live.v1", "socaity.v1"):
            script = opened.replace("URL_", repr(socket)).replace("PROTOCOL", repr(protocol))
            assert page.run(script) == "refused"
        read = f"""fetch("{service}/jobs", {{credentials: "include"}}).then((r) => r.text(), (e) => e.name)"""
        assert page.run(read) == "TypeError"
        write = f"""fetch("{service}/greet", {{method: "POST", mode: "no-cors", credentials: "include",
            body: new URLSearchParams({{name: "evil"}})}}).then(() => "sent")"""
        assert page.run(write) == "sent"
    jobs = httpx.get(f"{service}/jobs", headers={"Authorization": f"Bearer {KEY}"}).json()["jobs"]
    assert jobs == []


@pytest.fixture
def cookie(service: str) -> str:
    answer = httpx.post(f"{service}/login", data={"token": KEY, "next": "/docs"}, headers={"Origin": service})
    assert (answer.status_code, answer.headers["location"]) == (303, "/docs")
    given = answer.headers["set-cookie"]
    name, *settings = given.split("; ")
    assert name.startswith(f"socaity_session_{urlsplit(service).port}=")
    assert {"HttpOnly", "SameSite=strict", "Path=/"} <= set(settings)
    assert KEY not in given
    return name


OTHER = "http://127.0.0.1:9"
READS = {
    "typed by the user": ({"Sec-Fetch-Site": "none"}, 200),
    "own page": ({"Sec-Fetch-Site": "same-origin"}, 200),
    "old browser": ({}, 200),
    "another port": ({"Sec-Fetch-Site": "same-site"}, 401),
    "another site": ({"Sec-Fetch-Site": "cross-site"}, 401),
    "another origin": ({"Origin": OTHER}, 401),
    "no origin": ({"Origin": "null"}, 401),
}


@pytest.mark.parametrize("case", READS)
def test_cookie_reads_for_own_pages_only(service: str, cookie: str, case: str) -> None:
    headers, status = READS[case]
    for path in ("/jobs", "/metrics", "/dashboard", "/socaity"):
        answer = httpx.get(service + path, headers={**headers, "Cookie": f"a=b; {cookie}; c=d"})
        assert answer.status_code == status


WRITES = {
    "own page": ({"Origin": "OWN", "Sec-Fetch-Site": "same-origin"}, 200),
    "own page of an old browser": ({"Origin": "OWN"}, 200),
    "nobody says where it comes from": ({}, 401),
    "typed": ({"Sec-Fetch-Site": "none"}, 401),
    "another origin": ({"Origin": OTHER}, 403),
    "no origin": ({"Origin": "null"}, 403),
    "contradiction": ({"Origin": "OWN", "Sec-Fetch-Site": "cross-site"}, 401),
}


@pytest.mark.parametrize("case", WRITES)
def test_cookie_writes_for_own_pages_only(service: str, cookie: str, case: str) -> None:
    headers, status = WRITES[case]
    headers = {name: value.replace("OWN", service) for name, value in headers.items()}
    answer = httpx.post(f"{service}/double", json={"x": [1.0]}, headers={**headers, "Cookie": cookie})
    assert answer.status_code == status


@pytest.mark.parametrize("protocol", ["socaity.v1", "socaity.live.v1"])
def test_cookie_opens_sockets_of_own_pages_only(service: str, cookie: str, protocol: str) -> None:
    def is_open(origin: str | None) -> bool:
        try:
            with connect(
                service.replace("http", "ws", 1) + "/ws",
                subprotocols=[Subprotocol(protocol)],
                additional_headers={"Cookie": cookie},
                origin=None if origin is None else Origin(origin),
            ):
                return True
        except InvalidStatus as exc:
            return exc.response.status_code not in (401, 403)

    assert [is_open(origin) for origin in (service, None, OTHER, "null")] == [True, False, False, False]


def test_cookie_ends_with_logging_out_and_is_no_key(service: str, cookie: str) -> None:
    word = cookie.partition("=")[2]
    for headers in ({"Authorization": f"Bearer {word}"}, {"X-API-Key": word}):
        assert httpx.get(f"{service}/jobs", headers=headers).status_code == 401
    answer = httpx.post(f"{service}/logout", headers={"Cookie": cookie, "Origin": service})
    assert answer.status_code == 303
    assert "Max-Age=0" in answer.headers["set-cookie"]
    assert httpx.get(f"{service}/jobs", headers={"Cookie": cookie}).status_code == 401


@pytest.mark.parametrize(
    "place",
    ["//evil.example", "https://evil.example", "/\\evil.example", "javascript:alert(1)", "/a?b", "", "/%0d"],
)
def test_login_leads_nowhere_else(service: str, place: str) -> None:
    answer = httpx.post(f"{service}/login", data={"token": KEY, "next": place}, headers={"Origin": service})
    assert answer.headers["location"] == "/dashboard"


def test_login_of_a_page_of_another_origin_is_refused(service: str) -> None:
    answer = httpx.post(f"{service}/login", data={"token": KEY}, headers={"Origin": OTHER})
    assert answer.status_code == 403
    assert "set-cookie" not in answer.headers


@pytest.mark.parametrize(
    ("body", "status"),
    [(b"", 401), (b"\xff\xfe", 401), (b"token=" + b"x" * 20_000, 401), (b"token=" + b"x" * 70_000, 413)],
)
def test_login_takes_a_little_and_says_what_was_wrong(service: str, body: bytes, status: int) -> None:
    answer = httpx.post(f"{service}/login", content=body, headers={"Origin": service})
    assert answer.status_code == status
    assert "set-cookie" not in answer.headers


def test_login_page_cannot_be_framed_or_scripted(service: str) -> None:
    answer = httpx.get(f"{service}/dashboard", headers={"Accept": "text/html"})
    assert answer.status_code == 401
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    assert answer.headers["cache-control"] == "no-store"
    # programs get what programs read
    assert httpx.get(f"{service}/dashboard").headers["content-type"] == "application/problem+json"


def test_session_ends_with_the_token(service: str) -> None:
    answer = httpx.post(
        f"{service}/login", data={"token": make_token(lasts=100)}, headers={"Origin": service}
    )
    age = answer.headers["set-cookie"].partition("Max-Age=")[2].partition(";")[0]
    assert 90 <= int(age) <= 100


def test_live_socket_ends_with_the_token(service: str) -> None:
    with connect(
        service.replace("http", "ws", 1) + "/ws",
        subprotocols=[Subprotocol("socaity.live.v1")],
        additional_headers={"Authorization": f"Bearer {make_token(lasts=2)}"},
    ) as live:
        for _ in live:  # ends when the server closes properly
            pass
        assert live.close_code == 1001


# Pages of other origins

PAGE = "https://app.example"


def preflight(url: str, origin: str) -> httpx.Response:
    headers = {
        "Origin": origin,
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization,content-type",
    }
    return httpx.options(f"{url}/double", headers=headers)


@pytest.mark.parametrize("auth", [True, False])
def test_other_origins_are_refused_unless_they_are_named(auth: bool) -> None:
    with serve(make_router(auth=auth)) as url:
        for path in ("/health", "/double", "/nothing"):
            for method in ("GET", "POST", "OPTIONS"):
                answer = httpx.request(
                    method, url + path, headers={"Origin": PAGE, "Authorization": f"Bearer {KEY}"}
                )
                assert not [name for name in answer.headers if name.startswith("access-control")]
        assert preflight(url, PAGE).status_code in (401, 403, 405)


@pytest.mark.parametrize("auth", [False, Auth(api_keys={"program": KEY}, anonymous=True)])
@pytest.mark.parametrize("place", ["/ws", "/mine"])
def test_no_socket_is_opened_by_pages_of_other_origins(auth: Auth | bool, place: str) -> None:
    router = make_router(PAGE, auth=auth)
    greeted = []

    @router.app.websocket("/mine")
    async def mine(one: WebSocket) -> None:
        greeted.append(one.headers.get("origin"))
        await one.accept(subprotocol="socaity.v1")

    def opened(url: str, origin: str | None) -> int:
        try:
            with connect(
                url.replace("http", "ws", 1) + place,
                subprotocols=[Subprotocol("socaity.v1")],
                origin=None if origin is None else Origin(origin),
            ):
                return 101
        except InvalidStatus as exc:
            return exc.response.status_code if b"cross_origin" in exc.response.body else 0

    with serve(router) as url:
        origins = [None, url, PAGE, OTHER, "null", "https://evil.example"]
        assert [opened(url, origin) for origin in origins] == [101, 101, 101, 403, 403, 403]
    assert greeted == ([None, url, PAGE] if place == "/mine" else [])


def test_named_origins_may_call_with_a_token() -> None:
    with serve(make_router(PAGE)) as url:
        asked = preflight(url, PAGE)
        assert asked.status_code == 204
        assert asked.headers["access-control-allow-origin"] == PAGE
        assert "Authorization" in asked.headers["access-control-allow-headers"]
        assert "access-control-allow-credentials" not in asked.headers
        for headers, status in (({"Authorization": f"Bearer {KEY}"}, 200), ({}, 401)):
            answer = httpx.post(f"{url}/double", json={"x": [1.0]}, headers={**headers, "Origin": PAGE})
            assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (status, PAGE)
            assert answer.headers["vary"] == "Origin"
        others = preflight(url, "https://evil.example")
        assert "access-control-allow-origin" not in others.headers
        answer = httpx.post(
            f"{url}/double",
            json={"x": [1.0]},
            headers={"Authorization": f"Bearer {KEY}", "Origin": "https://evil.example"},
        )
        assert answer.status_code == 403
        assert "access-control-allow-origin" not in answer.headers
        login = httpx.post(f"{url}/login", data={"token": KEY}, headers={"Origin": url})
        cookie = login.headers["set-cookie"].partition(";")[0]
        answer = httpx.get(f"{url}/jobs", headers={"Cookie": cookie, "Origin": PAGE})
        assert answer.status_code == 401  # what the browser adds by itself counts for own pages only


def test_page_of_a_named_origin_calls_in_a_browser(page: Page) -> None:
    with (
        Peer(lambda _: b"<!doctype html><title>app</title><p>app") as app,
        serve(make_router(app.url)) as url,
    ):
        page.goto(f"{app.url}/")
        script = f"""fetch("{url}/double", {{method: "POST", body: JSON.stringify({{x: [1.5]}}),
            headers: {{"Authorization": "Bearer {KEY}", "Content-Type": "application/json"}}}}).then((r) => r.json())"""
        assert page.run(script) == [3.0]
        assert page.run(script.replace(KEY, "wrong").replace("r.json()", "r.status")) == 401
