"""Which tokens are accepted, and that every other one is refused with the right word and without being repeated."""

from __future__ import annotations

import base64
import json
import logging
import time
from typing import Any

import pytest

from socaity.exceptions import AuthenticationError, ConfigurationError
from socaity_server.auth.config import Auth
from socaity_server.auth.principal import Principal
from socaity_server.auth.tokens import TokenVerifier
from tests.server.auth.issuer import (
    ALGORITHMS,
    SECRET,
    forge_hs256,
    make_token,
    private_key,
    public_pem,
    unsigned,
)


def verifier(algorithm: str = "HS256", **settings: Any) -> TokenVerifier:
    if algorithm.startswith("HS"):
        return TokenVerifier([algorithm], secret=SECRET, **settings)
    return TokenVerifier([algorithm], public_key=public_pem(algorithm), **settings)


def identified(verifier: TokenVerifier, token: str) -> Principal:
    found = verifier.identify(token)
    assert isinstance(found, Principal)  # nothing has to be waited for
    return found


def refusal(verifier: TokenVerifier, token: str) -> AuthenticationError:
    with pytest.raises(AuthenticationError) as caught:
        verifier.identify(token)
    assert caught.value.status == 401
    assert token not in str(caught.value)
    assert token not in repr(verifier)
    return caught.value


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_every_algorithm_identifies(algorithm: str) -> None:
    found = identified(verifier(algorithm), make_token(algorithm, roles=["one", "two"]))
    assert (found.name, found.kind, found.roles, found.owner) == (
        "alice",
        "user",
        ("one", "two"),
        "user:alice",
    )


def test_a_role_may_stand_alone_and_none_is_needed() -> None:
    assert identified(verifier(), make_token(roles="admin")).roles == ("admin",)
    assert identified(verifier(), make_token()).roles == ()


@pytest.mark.parametrize("roles", [5, [1], ["a", None], {"a": 1}, ["x" * 600], ["x"] * 2000])
def test_roles_are_a_list_of_texts(roles: Any) -> None:
    assert "'roles'" in str(refusal(verifier(), make_token(roles=roles)))


@pytest.mark.parametrize("sub", ["", "x" * 600])
def test_name_has_a_length(sub: str) -> None:
    assert "'sub'" in str(refusal(verifier(), make_token(sub=sub)))


def test_expired_token_is_refused() -> None:
    assert refusal(verifier(), make_token(lasts=-1)).code == "token_expired"


def test_leeway_forgives_clocks_that_differ() -> None:
    lenient = verifier(leeway=60)
    assert identified(lenient, make_token(lasts=-30)).name == "alice"
    assert identified(lenient, make_token(nbf=int(time.time()) + 30)).name == "alice"
    assert refusal(lenient, make_token(lasts=-90)).code == "token_expired"


def test_token_expires_also_when_it_is_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    one, token = verifier(), make_token(lasts=100)
    assert identified(one, token) is identified(one, token)
    later = time.time() + 101
    monkeypatch.setattr(time, "time", lambda: later)
    assert refusal(one, token).code == "token_expired"


def test_token_of_the_future_is_refused() -> None:
    early = make_token(nbf=int(time.time()) + 100)
    assert refusal(verifier(), early).code == "token_not_yet_valid"


def test_wrong_key_is_refused() -> None:
    error = refusal(
        verifier(),
        make_token(key="another secret of more than sixty-four bytes, which the server has never seen"),
    )
    assert error.code == "invalid_token"
    assert "signature" in str(error)
    foreign = make_token("RS256", key=private_key("RS256", "another"))
    assert "signature" in str(refusal(verifier("RS256"), foreign))


def test_changed_token_is_refused() -> None:
    head, body, signature = make_token().split(".")
    claims = json.loads(base64.urlsafe_b64decode(body + "=="))
    claims["sub"] = "admin"
    changed = base64.urlsafe_b64encode(json.dumps(claims).encode()).rstrip(b"=").decode()
    assert "signature" in str(refusal(verifier(), f"{head}.{changed}.{signature}"))


@pytest.mark.parametrize("claims", [{"aud": "others"}, {"aud": ["others", "more"]}, {}])
def test_wrong_audience_is_refused(claims: dict[str, Any]) -> None:
    one = verifier(audience=["us", "them"])
    assert identified(one, make_token(aud="us")).name == "alice"
    assert identified(one, make_token(aud=["x", "them"])).name == "alice"
    assert "aud" in str(refusal(one, make_token(**claims)))


def test_token_for_somebody_is_refused_where_nobody_is_named() -> None:
    assert "AUTH_AUDIENCE" in str(refusal(verifier(), make_token(aud="another service")))


@pytest.mark.parametrize("claims", [{"iss": "https://evil"}, {}])
def test_wrong_issuer_is_refused(claims: dict[str, Any]) -> None:
    one = verifier(issuer="https://good")
    assert identified(one, make_token(iss="https://good")).name == "alice"
    assert "iss" in str(refusal(one, make_token(**claims)))


@pytest.mark.parametrize("claim", ["exp", "sub"])
def test_missing_claim_is_refused(claim: str) -> None:
    assert f"'{claim}'" in str(refusal(verifier(), make_token(without=(claim,))))


def test_end_may_be_left_out_where_the_operator_says_so() -> None:
    assert identified(verifier(required=[]), make_token(without=("exp",))).expires_at is None
    assert "'sub'" in str(refusal(verifier(required=[]), make_token(without=("sub",))))


@pytest.mark.parametrize("algorithm", ["none", "None", "NONE", "HS999", ""])
def test_unsigned_token_is_refused(algorithm: str) -> None:
    claims = {"sub": "alice", "exp": int(time.time()) + 100}
    for one in (verifier(), verifier("RS256")):
        assert refusal(one, unsigned(claims, algorithm=algorithm)).code == "invalid_token"


@pytest.mark.parametrize("algorithm", ["RS256", "ES256", "EdDSA"])
def test_public_key_signs_nothing(algorithm: str) -> None:
    """The attack that swaps the algorithm: what everybody knows is taken for the secret."""
    claims = {"sub": "alice", "exp": int(time.time()) + 100}
    forged = forge_hs256(claims, public_pem(algorithm).encode())
    assert refusal(verifier(algorithm), forged).code == "invalid_token"
    # also where secrets are accepted beside key pairs
    both = TokenVerifier([algorithm, "HS256"], secret=SECRET, public_key=public_pem(algorithm))
    assert "signature" in str(refusal(both, forged))
    assert identified(both, make_token()).name == identified(both, make_token(algorithm)).name == "alice"


def test_algorithm_that_is_not_named_is_refused() -> None:
    assert "HS256" in str(refusal(verifier(), make_token("HS512")))
    assert "RS256" in str(refusal(verifier("RS256"), make_token("PS384")))


@pytest.mark.parametrize("crit", [["exp"], ["b64"], [], None, "x"])
def test_critical_extension_is_refused(crit: Any) -> None:
    claims = {"sub": "alice", "exp": int(time.time()) + 100}
    assert identified(verifier(), forge_hs256(claims, SECRET.encode())).name == "alice"
    assert refusal(verifier(), forge_hs256(claims, SECRET.encode(), crit=crit)).code == "invalid_token"


@pytest.mark.parametrize(
    "header",
    [
        {"jku": "https://evil/keys"},
        {"jwk": {"kty": "oct", "k": "AAAA"}},
        {"x5u": "https://evil"},
        {"kid": ["x"]},
    ],
)
def test_header_does_not_choose_the_key(header: dict[str, Any]) -> None:
    claims = {"sub": "alice", "exp": int(time.time()) + 100}
    assert refusal(verifier(), forge_hs256(claims, b"\0\0\0", **header)).code == "invalid_token"


@pytest.mark.parametrize(
    "junk", ["x", "a.b", "a.b.c", "....", "é.é.é", "\udcff", "e30.e30.e30", "bnVsbA.bnVsbA.", "x" * 16_000]
)
def test_junk_is_refused(junk: str) -> None:
    assert refusal(verifier(), junk).code == "invalid_token"


@pytest.mark.parametrize("exp", ["soon", 1e400, None, [], -1e400, pytest.param(10**400, id="far")])
def test_strange_end_is_refused(exp: Any) -> None:
    claims = {"sub": "alice", "exp": exp}
    refusal(verifier(), forge_hs256(claims, SECRET.encode()))


@pytest.mark.parametrize("text", ["a\nWARNING: made up", "a\r", "\0", "\x1b[2J", "\u2028", "\ud800"])
def test_name_and_roles_are_text_of_one_line(text: str) -> None:
    """Names are in logs and in what is hashed."""
    for claims in ({"sub": text}, {"sub": "alice", "roles": ["reader", text]}):
        refusal(verifier(), forge_hs256({"exp": int(time.time()) + 100, **claims}, SECRET.encode()))
    assert identified(verifier(), make_token(sub="Zoë Ødegård 李")).name == "Zoë Ødegård 李"


def test_remembers_a_limited_number(monkeypatch: pytest.MonkeyPatch) -> None:
    from socaity_server.auth import tokens

    monkeypatch.setattr(tokens, "_MOST_KNOWN", 3)
    one = verifier()
    for number in range(10):
        identified(one, make_token(number=number))
    assert len(one._known) == 3


def test_short_secret_is_said_once_and_works(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        Auth(secret="hunter2").check()
    assert "AUTH_SECRET has 7 bytes" in caplog.text
    assert "hunter2" not in caplog.text
    one = TokenVerifier(["HS256"], secret="hunter2")
    token = forge_hs256({"sub": "alice", "exp": int(time.time()) + 100}, b"hunter2")
    assert identified(one, token).name == "alice"


def test_key_has_to_fit_the_algorithm() -> None:
    with pytest.raises(ConfigurationError, match="does not fit AUTH_ALGORITHM"):
        TokenVerifier(["ES256"], public_key=public_pem("RS256"))
    with pytest.raises(ConfigurationError, match="does not fit AUTH_ALGORITHM"):
        TokenVerifier(["ES384"], public_key=public_pem("ES256"))
    with pytest.raises(ConfigurationError, match="no public key"):
        TokenVerifier(["RS256"], public_key="-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n")
    with pytest.raises(ConfigurationError, match="a private key"):
        TokenVerifier(["RS256"], public_key="-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n")
