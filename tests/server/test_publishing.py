"""Results that other services may read: with the token, for a while, and not for ever more of them."""

import asyncio
import hashlib
from collections.abc import AsyncIterator

import numpy as np
import pytest

from socaity.exceptions import JobFailed, NotFoundError
from socaity.protocol.messagepack import unpackb
from socaity_server.publishing import Publication, Publishing

pytestmark = pytest.mark.anyio
VALUE = {"image": np.arange(100_000, dtype=np.float32), "note": "a cat"}


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def publishing(clock: Clock) -> AsyncIterator[Publishing]:
    made = Publishing(ttl=100, max_total=1_000_000, clock=clock)
    yield made
    await made.close()


def read(publishing: Publishing, publication: Publication, token: str | None = None) -> bytes:
    file, size = publishing.open(publication.sha256, publication.token if token is None else token)
    with file:
        data = file.read()
    assert len(data) == size == publication.size
    return data


async def test_a_result_is_read_with_its_token(publishing: Publishing) -> None:
    publication = await publishing.add(VALUE)
    data = read(publishing, publication)
    assert hashlib.sha256(data).hexdigest() == publication.sha256
    value = unpackb(data)
    assert value["note"] == "a cat"
    np.testing.assert_array_equal(value["image"], VALUE["image"])


async def test_nobody_else_reads_it(publishing: Publishing) -> None:
    one, other = await publishing.add(VALUE), await publishing.add("something else")
    assert one.token != (await publishing.add(VALUE)).token
    for sha256, token in (
        (one.sha256, ""),
        (one.sha256, other.token),
        (other.sha256, one.token),
        ("..", one.token),
    ):
        with pytest.raises(NotFoundError):
            publishing.open(sha256, token)
    assert one.token not in repr(NotFoundError("x"))


async def test_it_ends_with_its_time_and_its_file_with_the_last_token(
    publishing: Publishing, clock: Clock
) -> None:
    first = await publishing.add(VALUE)
    assert first.to_wire(clock()) == {
        "sha256": first.sha256,
        "size": first.size,
        "token": first.token,
        "seconds": 100.0,
    }
    clock.now = 60
    second = await publishing.add(VALUE)
    clock.now = 100
    with pytest.raises(NotFoundError):
        publishing.open(first.sha256, first.token)
    await publishing.add("another")
    assert read(publishing, second)
    clock.now = 161
    await publishing.add("one more")
    assert publishing._files.size(second.sha256) is None


async def test_what_is_published_is_bounded(publishing: Publishing) -> None:
    made = [await publishing.add(np.full(100_000, n, np.float32)) for n in range(3)]
    with pytest.raises(NotFoundError):
        read(publishing, made[0])
    assert read(publishing, made[2])
    with pytest.raises(JobFailed, match="too many to be published"):
        await publishing.add(np.zeros(1_000_001, np.uint8))


async def test_many_at_once_are_all_there(publishing: Publishing) -> None:
    made = await asyncio.gather(*[publishing.add([n, "x" * 1000]) for n in range(50)])
    assert [unpackb(read(publishing, one))[0] for one in made] == list(range(50))
