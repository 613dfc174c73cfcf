"""The guard as front ends of any protocol use it."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from socaity.exceptions import AuthenticationError, ConfigurationError
from socaity_server import Auth
from socaity_server.auth.guard import (
    SERVICE,
    Action,
    Credentials,
    Guard,
    Principal,
    RequestContext,
    model_resource,
)
from socaity_server.auth.principal import ANONYMOUS, EXEMPT
from socaity_server.auth.sessions import Sessions
from tests.server.auth.issuer import SECRET, make_token
from tests.server.auth.peers import Peer

KEY = "a-key-of-the-tests-0001"
GUARD = Guard(Auth(api_keys={"program": KEY}, secret=SECRET))


def test_credentials_come_from_headers_and_metadata() -> None:
    for headers in (
        {"authorization": "Bearer x", "x-api-key": "y", "cookie": "z"},
        [(b"authorization", b"Bearer x"), (b"x-api-key", b"y"), (b"cookie", b"z")],
        (("authorization", "Bearer x"), ("x-api-key", "y"), ("user-agent", "grpc")),
    ):
        found = Credentials.of_headers(headers)  # type: ignore[arg-type]
        assert (found.authorization, found.api_key, found.session) == ("Bearer x", "y", None)
        assert repr(found) == "Credentials(authorization, api_key)"
    assert repr(Credentials()) == "Credentials(none)"


@given(
    authorization=st.none() | st.text(max_size=50) | st.text(max_size=50).map("Bearer {}".format),
    api_key=st.none() | st.text(max_size=50),
    session=st.none() | st.text(max_size=50),
)
def test_whatever_is_sent_is_refused_in_order(
    authorization: str | None, api_key: str | None, session: str | None
) -> None:
    with pytest.raises(AuthenticationError) as caught:
        GUARD.identify(Credentials(authorization, api_key, session))
    assert caught.value.status == 401


@pytest.mark.anyio
async def test_admit_is_both_questions() -> None:
    with Peer(lambda asked: {"result": asked["input"]["resource"] == "model:a:1"}) as agent:
        guard = Guard(Auth(secret=SECRET, opa_url=agent.url, policy_timeout=20))
        credentials = Credentials(authorization=f"Bearer {make_token()}")
        context = RequestContext("10.0.0.7", "POST", "/inference.GRPCInferenceService/ModelInfer")
        principal = await guard.admit(credentials, Action.INFER, model_resource("a"), context)
        assert principal.owner == "user:alice"
        for again in range(2):
            with pytest.raises(AuthenticationError) as caught:
                await guard.admit(credentials, Action.INFER, model_resource("b"), context)
            assert (caught.value.status, again < 2) == (403, True)
        assert await guard.admit(Credentials(), Action.HEALTH) is EXEMPT
        await guard.aclose()
        assert agent.count == 2


def test_who_was_let_in_for_health_may_do_nothing_else() -> None:
    assert GUARD.authorize(EXEMPT, Action.HEALTH) is None
    with pytest.raises(AuthenticationError) as caught:
        GUARD.authorize(EXEMPT, Action.INFER, SERVICE)
    assert caught.value.status == 401


def test_header_comes_before_the_cookie() -> None:
    word, _ = GUARD.sessions.open(Principal("bob", "user"))
    found = GUARD.identify(Credentials(session=word))
    assert isinstance(found, Principal)
    assert found.name == "bob"
    with pytest.raises(AuthenticationError):
        GUARD.identify(Credentials(authorization="Bearer x", session=word))


def test_stale_cookie_is_as_none() -> None:
    lenient = Guard(Auth(api_keys={"program": KEY}, anonymous=True))
    assert lenient.identify(Credentials(session="what was known before the restart")) is ANONYMOUS


def test_session_ends() -> None:
    now = 1000.0
    sessions = Sessions(ttl=100, clock=lambda: now)
    long, seconds = sessions.open(Principal("a", "key"))
    short, left = sessions.open(Principal("b", "user", expires_at=1010.0))
    assert (seconds, left) == (100, 10)
    known = sessions.find(long)
    assert known is not None
    assert (known.owner, known.expires_at) == ("key:a", 1100.0)  # a socket that it has opened ends then
    assert sessions.find(short) is not None
    now = 1010.0
    assert sessions.find(long) is not None
    assert sessions.find(short) is None
    now = 1100.0
    assert sessions.find(long) is None
    assert not sessions._known


def test_sessions_are_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    from socaity_server.auth import sessions as module

    monkeypatch.setattr(module, "_MOST", 3)
    sessions = Sessions()
    words = [sessions.open(Principal("a", "key"))[0] for _ in range(5)]
    assert [sessions.find(word) is not None for word in words] == [False, False, True, True, True]


def test_expired_principal_is_refused_where_it_is_used_again() -> None:
    gone = Principal("alice", "user", expires_at=time.time() - 1)
    with pytest.raises(AuthenticationError) as caught:
        GUARD.authorize(gone, Action.INFER)
    assert caught.value.code == "token_expired"


def test_secrets_and_keys_need_no_cryptography() -> None:
    """What needs the extra says so with the line for pip."""
    program = """
import sys
sys.modules["cryptography"] = None
from socaity.exceptions import ConfigurationError
from socaity_server import Auth, SocaityRouter
from socaity_server.auth.guard import Credentials
import jwt, time
SECRET = "s" * 64
token = jwt.encode({"sub": "alice", "exp": time.time() + 60}, SECRET, "HS256")
guard = SocaityRouter(auth=Auth(secret=SECRET)).dataplane.guard
print(guard.identify(Credentials(authorization=f"Bearer {token}")).name)
for settings in ({"public_key": "x"}, {"jwks_url": "http://issuer"}):
    try:
        SocaityRouter(auth=Auth(algorithms=["RS256"], **settings))
    except ConfigurationError as error:
        print(error)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=50)
    assert done.returncode == 0, done.stderr
    name, *refusals = done.stdout.splitlines()
    assert name == "alice"
    assert len(refusals) == 2
    for refusal in refusals:
        assert refusal.endswith("need: pip install 'socaity[auth]'")


def test_check_is_made_at_once() -> None:
    with pytest.raises(ConfigurationError):
        Guard(Auth())
