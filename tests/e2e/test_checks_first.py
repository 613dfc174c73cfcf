"""What is wrong with a call is told before anything travels: no request, and no upload either."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal

import pytest
from PIL import Image
from pydantic import Field

import socaity
from socaity import InvalidInputError, NotFoundError
from socaity_server import SocaityRouter
from tests.e2e.servers import DEADLINE
from tests.transports.doubles import served

LARGE = b"\x89PNG\r\n\x1a\n" + bytes(5_000_000)


class Requests:
    """An app in front of another that notes what is asked of it."""

    def __init__(self, app: Any) -> None:
        self.app = app
        self.seen: list[str] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            self.seen.append(f"{scope['method']} {scope['path']}")
        await self.app(scope, receive, send)


@pytest.fixture
def service() -> Iterator[tuple[socaity.Service, Requests]]:
    router = SocaityRouter(provider="fastapi", environment="localhost", max_body=100_000)

    @router.add_route("/size", queue_size=10)
    def size(text: str) -> int:
        return len(text)

    @router.add_route("/enlarge", queue_size=10)
    def enlarge(
        image: Image.Image,
        factor: Annotated[int, Field(ge=1, le=8)] = 2,
        mode: Literal["fast", "good"] = "fast",
    ) -> int:
        return factor

    app = Requests(router.app)
    with served(app, lifespan="on") as url:
        with socaity.connect(url, transport="http", progress=False) as connected:
            app.seen.clear()
            yield connected, app


@pytest.mark.parametrize(
    ("arguments", "parameter", "said"),
    [
        ({"factor": 9}, "factor", "8"),
        ({"factor": "two"}, "factor", "integer"),
        ({"mode": "slow"}, "mode", "fast"),
        ({"facto": 2}, "facto", "factor"),
    ],
)
def test_a_wrong_argument_beside_a_large_file_uploads_nothing(
    service: tuple[socaity.Service, Requests], arguments: dict[str, Any], parameter: str, said: str
) -> None:
    connected, app = service
    with pytest.raises(InvalidInputError, match=said) as caught:
        connected.enlarge(LARGE, **arguments)
    assert caught.value.parameter == parameter
    assert app.seen == []


def test_a_missing_argument_and_a_wrong_name_ask_nothing(service: tuple[socaity.Service, Requests]) -> None:
    connected, app = service
    with pytest.raises(InvalidInputError, match="image"):
        connected.enlarge()
    with pytest.raises(AttributeError, match="did you mean 'enlarge'"):
        connected.enlarg
    with pytest.raises(NotFoundError, match="did you mean 'enlarge'"):
        connected["enlarg"]
    assert app.seen == []


def test_more_than_the_service_takes_is_not_sent(service: tuple[socaity.Service, Requests]) -> None:
    connected, app = service
    with pytest.raises(
        InvalidInputError, match=r"the service takes 100000 in one call\. Nothing was sent"
    ) as caught:
        connected.size("x" * 100_000).result(DEADLINE)
    assert (caught.value.status, caught.value.code) == (413, "too_large")
    assert app.seen == []
    assert connected.size("x" * 90_000).result(DEADLINE) == 90_000
