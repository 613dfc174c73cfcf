"""Text that a service gave is never taken for a file or an address of the client."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import socaity
from socaity import InvalidInputError
from socaity.protocol.media import Media
from socaity_server import SocaityRouter
from tests.server.conftest import serve

from .servers import DEADLINE


def router_of(name: str) -> SocaityRouter:
    router = SocaityRouter(title=name)

    @router.add_route("/echo", concurrency=4)
    def echo(value: Any) -> Any:
        return value

    @router.add_route("/receive", concurrency=4)
    def receive(file: Media) -> bytes:
        return file.data

    @router.add_route("/receive_all", concurrency=4)
    def receive_all(files: list[Media]) -> list[bytes]:
        return [file.data for file in files]

    @router.add_route("/receive_either", concurrency=4)
    def receive_either(file: Media | str) -> Any:
        return file if isinstance(file, str) else file.data

    return router


@pytest.fixture(params=["websocket", "http", "inprocess", "two services"])
def services(request: pytest.FixtureRequest) -> Iterator[tuple[socaity.Service, socaity.Service]]:
    """The one that gives, and the one that takes."""
    if request.param == "inprocess":
        with socaity.connect(router_of("one"), progress=False) as service:
            yield service, service
        return
    with serve(router_of("one")) as url, serve(router_of("two")) as other:
        wire = "http" if request.param == "http" else "websocket"
        if wire == "websocket":
            url, other = url.replace("http:", "ws:"), other.replace("http:", "ws:")
        if request.param != "two services":
            other = url
        with (
            socaity.connect(url, transport=wire, progress=False) as giver,
            socaity.connect(other, transport=wire, progress=False) as taker,
        ):
            yield giver, giver if other == url else taker


@pytest.fixture
def secret(tmp_path: Path) -> str:
    path = tmp_path / "secret.txt"
    path.write_text("secret")
    return str(path)


@pytest.mark.parametrize("is_finished", [False, True], ids=["pending", "finished"])
def test_results_open_no_files(
    services: tuple[socaity.Service, socaity.Service], secret: str, is_finished: bool
) -> None:
    giver, taker = services
    made = giver.echo({"path": secret, "url": "http://127.0.0.1:1/", "all": [secret], "data": "data:,plain"})
    if is_finished:
        made.result(DEADLINE)
    for call in (
        lambda: taker.receive(made["path"]),
        lambda: taker.receive(made["url"]),
        lambda: taker.receive_all(made["all"]),
        lambda: taker.receive_all([made["path"]]),
    ):
        with pytest.raises(InvalidInputError, match=r"expected|must be"):
            call().result(DEADLINE)
    assert taker.receive_either(made["path"]).result(DEADLINE) == secret
    assert taker.receive(made["data"]).result(DEADLINE) == b"plain"
    assert type(giver.echo(taker.receive_either(made["path"])).result(DEADLINE)) is str


def test_typed_paths_still_open_files(services: tuple[socaity.Service, socaity.Service], secret: str) -> None:
    _, taker = services
    assert taker.receive(secret).result(DEADLINE) == b"secret"
    assert taker.receive(Path(secret)).result(DEADLINE) == b"secret"


def test_where_text_is_welcome_it_stays_text(
    services: tuple[socaity.Service, socaity.Service], secret: str
) -> None:
    _, taker = services
    assert taker.receive_either(secret).result(DEADLINE) == secret
    assert taker.receive_either(Path(secret)).result(DEADLINE) == b"secret"
