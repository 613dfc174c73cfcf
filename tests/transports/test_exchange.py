"""What a client makes of what a service says that it has published."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any, cast

import pytest

from socaity.exceptions import ProtocolError, TransportError
from socaity.transport import Call, Published, SmallPart, Target
from socaity_transports._exchange import SocketExchange
from socaity_transports._session import ClientSession

pytestmark = pytest.mark.anyio
SHA = "a" * 64
GOOD = {"sha256": SHA, "size": 5, "token": "t" * 32, "seconds": 600.0}


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


class Session:
    """Answers with what a server could say."""

    publishes = True
    fetches = frozenset({"http://models:80"})

    def __init__(self, answer: Any) -> None:
        self._answer = answer

    def publish(self, call: Call, path: object) -> "asyncio.Future[Any]":
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        future.set_result(self._answer)
        return future


def exchange(answer: Any = None, url: str = "ws://user:secret@first:8000/a/ws?key=secret") -> SocketExchange:
    return SocketExchange(cast(ClientSession, Session(answer)), Target(url, api_key="secret"))


async def published(answer: Any) -> Any:
    asked = exchange(answer).publish(cast(Call, object()), ())
    assert asked is not None
    return await asked


async def test_the_address_has_no_secrets() -> None:
    found = await published(GOOD)
    assert found == Published(SHA, 5, f"http://first:8000/a/blobs/{SHA}", "t" * 32, 600.0)
    assert "t" * 32 not in repr(found)


async def test_the_service_may_name_another_address() -> None:
    assert (await published(GOOD | {"at": "https://inside/b/"})).url == f"https://inside/b/blobs/{SHA}"


async def test_small_results_are_not_published() -> None:
    assert await published(None) is None
    assert await published({"value": None}) == SmallPart(None)


@pytest.mark.parametrize(
    "wrong",
    [
        {"sha256": "../../jobs"},
        {"sha256": SHA + "/../x"},
        {"sha256": SHA.upper()},
        {"sha256": None},
        {"size": "5"},
        {"size": True},
        {"token": None},
        {"seconds": "long"},
        {"at": 7},
    ],
)
async def test_what_would_become_part_of_a_url_is_checked(wrong: dict[str, Any]) -> None:
    with pytest.raises(ProtocolError, match="not in the protocol"):
        await published(GOOD | wrong)


@pytest.mark.parametrize("answer", [5, [], {}, "text"])
async def test_an_answer_of_another_form_is_an_error(answer: Any) -> None:
    with pytest.raises(ProtocolError):
        await published(answer)


def test_origins_are_compared_in_one_spelling() -> None:
    one = exchange()
    assert one.fetches("http://models/any/path")
    assert one.fetches("HTTP://Models:80")
    for other in ("http://models:81", "https://models", "http://models.evil", "http://u@models", "models"):
        assert not one.fetches(other)


async def test_a_router_of_this_process_publishes_nothing() -> None:
    one = SocketExchange(cast(ClientSession, Session(GOOD)), None)
    assert one.publish(cast(Call, object()), ()) is None
    stream: AsyncIterator[bytes] = one.download(Published(SHA, 5, "", "t", 1.0))
    with pytest.raises(TransportError, match="this process"):
        await anext(stream)
