"""Keys of an issuer: fetched, remembered, changed; and what happens while the issuer is away."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from socaity.exceptions import AuthenticationError, ServerError
from socaity_server.auth.key_set import COOLDOWN, LONGEST, TTL, KeySet
from socaity_server.auth.principal import Principal
from socaity_server.auth.tokens import TokenVerifier
from tests.server.auth.issuer import SECRET, forge_hs256, key_set, make_token, private_key
from tests.server.auth.peers import Peer, closed_port

pytestmark = pytest.mark.anyio


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def issuer() -> Iterator[Peer]:
    with Peer(lambda _: key_set(("RS256", "one"))) as peer:
        yield peer


@asynccontextmanager
async def verifier(
    url: str, *algorithms: str, **settings: Any
) -> AsyncIterator[tuple[TokenVerifier, KeySet, Clock]]:
    clock = Clock()
    keys = KeySet(url, clock=clock, **settings)
    try:
        yield TokenVerifier(algorithms or ["RS256"], key_set=keys), keys, clock
    finally:
        await keys.aclose()


async def identified(one: TokenVerifier, token: str) -> Principal:
    found = one.identify(token)
    return found if isinstance(found, Principal) else await found


def signed(name: str, algorithm: str = "RS256", **claims: Any) -> str:
    return make_token(algorithm, key=private_key(algorithm, name), headers={"kid": name}, **claims)


async def test_keys_are_fetched_once_for_many(issuer: Peer) -> None:
    async with verifier(f"{issuer.url}/keys") as (one, _, _):
        tokens = [signed("one", number=number) for number in range(20)]
        found = await asyncio.gather(*[identified(one, token) for token in tokens])
        assert {principal.name for principal in found} == {"alice"}
        assert isinstance(one.identify(tokens[3]), Principal)  # nothing has to be waited for
        assert issuer.count == 1


async def test_new_key_is_found_and_an_old_one_forgotten(issuer: Peer) -> None:
    async with verifier(issuer.url) as (one, _, clock):
        old = signed("one")
        await identified(one, old)
        issuer.answer = lambda _: key_set(("RS256", "two"))
        clock.now += COOLDOWN + 1
        assert (await identified(one, signed("two"))).name == "alice"
        assert issuer.count == 2
        with pytest.raises(AuthenticationError, match="does not publish"):
            await identified(one, old)  # although it was verified before


async def test_made_up_keys_do_not_make_the_server_ask_again_and_again(issuer: Peer) -> None:
    async with verifier(issuer.url) as (one, _, clock):
        await identified(one, signed("one"))
        for number in range(50):
            token = make_token("RS256", headers={"kid": f"made up {number}"}, number=number)
            with pytest.raises(AuthenticationError, match="does not publish"):
                await identified(one, token)
        assert issuer.count == 1
        clock.now += COOLDOWN + 1
        with pytest.raises(AuthenticationError):
            await identified(one, signed("two"))
        assert issuer.count == 2


async def test_keys_are_looked_at_again_beside_the_requests(issuer: Peer) -> None:
    async with verifier(issuer.url) as (one, keys, clock):
        token = signed("one")
        await identified(one, token)
        issuer.wait_asked()
        clock.now += TTL + 1
        issuer.hold()
        assert isinstance(one.identify(token), Principal)  # while they are fetched
        await asyncio.to_thread(issuer.wait_asked)
        issuer.answer = lambda _: key_set(("RS256", "two"))
        issuer.release()
        assert keys._running is not None
        await keys._running
        with pytest.raises(AuthenticationError):
            await identified(one, token)


async def test_keys_go_on_for_an_hour_while_the_issuer_is_away(issuer: Peer) -> None:
    async with verifier(issuer.url) as (one, keys, clock):
        token = signed("one")
        await identified(one, token)
        issuer.answer = lambda _: (500, b"")
        clock.now += TTL + 1
        assert isinstance(one.identify(token), Principal)
        assert keys._running is not None
        await keys._running
        assert isinstance(one.identify(token), Principal)
        clock.now += LONGEST
        with pytest.raises(ServerError) as caught:
            await identified(one, token)
        assert (caught.value.status, caught.value.code) == (503, "keys_unreachable")


async def test_issuer_that_is_away_is_503_and_not_asked_by_everybody(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with verifier(f"http://user:hunter2@127.0.0.1:{closed_port()}/keys") as (one, keys, _):
        tokens = [signed("one", number=number) for number in range(5)]
        for error in await asyncio.gather(
            *[identified(one, token) for token in tokens], return_exceptions=True
        ):
            assert isinstance(error, ServerError)
            assert (error.status, error.code, error.retry_after) == (503, "keys_unreachable", 1.0)
        assert "hunter2" not in caplog.text + repr(keys)
        assert len(caplog.records) == 1


async def test_slow_issuer_is_not_waited_for(issuer: Peer) -> None:
    issuer.hold()
    async with verifier(issuer.url, deadline=0.05) as (one, _, clock):
        with pytest.raises(ServerError, match="cannot be fetched"):
            await identified(one, signed("one"))
        issuer.release()
        clock.now += 2
        assert (await identified(one, signed("one"))).name == "alice"


@pytest.mark.parametrize(
    "answer",
    [
        b"no JSON",
        b"[]",
        {"keys": "none"},
        {"keys": [{}] * 101},
        (302, b""),
        b'{"keys": [' + b" " * 300_000 + b"]}",
        b"[" * 100_000,
    ],
)
async def test_junk_of_the_issuer_is_503(issuer: Peer, answer: Any) -> None:
    issuer.answer = lambda _: answer
    async with verifier(issuer.url) as (one, _, _):
        with pytest.raises(ServerError) as caught:
            await identified(one, signed("one"))
        assert caught.value.status == 503


@pytest.mark.parametrize(
    "entry",
    [
        {"kty": "oct", "kid": "one", "k": "AAAA", "alg": "RS256"},
        {**key_set(("RS256", "one"))["keys"][0], "use": "enc"},
        {**key_set(("RS256", "one"))["keys"][0], "key_ops": ["encrypt"]},
        {**key_set(("RS256", "one"))["keys"][0], "alg": "RS512"},
        {**key_set(("RS256", "one"))["keys"][0], "alg": "none"},
        {**key_set(("RS256", "one"))["keys"][0], "alg": "HS256"},
        {**key_set(("RS256", "one"))["keys"][0], "n": "AQAB"},
        {"kty": "RSA"},
        "text",
        None,
    ],
    ids=lambda entry: str(entry)[:20],
)
async def test_key_that_is_for_something_else_checks_nothing(issuer: Peer, entry: Any) -> None:
    issuer.answer = lambda _: {"keys": [entry]}
    async with verifier(issuer.url) as (one, _, _):
        with pytest.raises(AuthenticationError, match="does not publish"):
            await identified(one, signed("one"))


async def test_secret_in_a_key_set_signs_nothing(issuer: Peer) -> None:
    issuer.answer = lambda _: {"keys": [{"kty": "oct", "kid": "one", "k": "AAAA", "alg": "HS256"}]}
    keys = KeySet(issuer.url)
    one = TokenVerifier(["HS256", "RS256"], secret=SECRET, key_set=keys)
    forged = forge_hs256({"sub": "alice", "exp": 9_999_999_999}, b"\0\0\0")
    with pytest.raises(AuthenticationError, match="signature"):
        await identified(one, forged)
    assert issuer.count == 0
    await keys.aclose()


@pytest.mark.parametrize("algorithm", ["RS256", "PS384", "ES256", "ES512", "EdDSA"])
async def test_only_key_needs_no_id(issuer: Peer, algorithm: str) -> None:
    published = key_set((algorithm, "one"))
    published["keys"][0].pop("kid")
    published["keys"][0].pop("alg")
    issuer.answer = lambda _: published
    async with verifier(issuer.url, algorithm) as (one, _, _):
        assert (await identified(one, make_token(algorithm))).name == "alice"


async def test_without_id_two_keys_are_one_too_many(issuer: Peer) -> None:
    issuer.answer = lambda _: key_set(("RS256", "one"), ("RS256", "two"))
    async with verifier(issuer.url) as (one, _, _):
        with pytest.raises(AuthenticationError, match="does not publish"):
            await identified(one, make_token("RS256"))


async def test_one_who_goes_away_does_not_end_it_for_others(issuer: Peer) -> None:
    issuer.hold()
    async with verifier(issuer.url) as (one, _, _):
        impatient = asyncio.ensure_future(identified(one, signed("one", number=1)))
        patient = asyncio.ensure_future(identified(one, signed("one", number=2)))
        await asyncio.to_thread(issuer.wait_asked)
        impatient.cancel()
        issuer.release()
        assert (await patient).name == "alice"
        assert issuer.count == 1
