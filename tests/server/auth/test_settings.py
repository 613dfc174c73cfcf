"""How authentication is configured; what cannot be meant is refused before anything is served."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest

from socaity.exceptions import ConfigurationError
from socaity_server import Auth, SocaityRouter
from socaity_server.auth.api_keys import APIKeys, read_api_keys
from socaity_server.auth.guard import Guard
from socaity_server.settings import read_auth, read_cors_origins, read_settings
from tests.server.auth.issuer import SECRET, private_key, public_pem

ON = {"AUTH_ENABLED": "true", "AUTH_SECRET": SECRET}
KEY = "a-key-of-the-tests-0001"


def guard_of(**environ: str) -> Guard | None:
    auth = read_auth(environ=environ)
    return None if auth is None else Guard(auth)


@pytest.mark.parametrize("word", ["true", "True", "TRUE", "1", "yes", "YES", "on", "On", " on "])
def test_on(word: str) -> None:
    assert guard_of(AUTH_ENABLED=word, AUTH_SECRET=SECRET) is not None


@pytest.mark.parametrize("word", ["false", "False", "0", "no", "NO", "off", "Off", "", " "])
def test_off(word: str) -> None:
    assert guard_of(AUTH_ENABLED=word, AUTH_SECRET=SECRET) is None


def test_off_is_the_default() -> None:
    assert guard_of(AUTH_SECRET=SECRET) is None


@pytest.mark.parametrize("word", ["enabled", "y", "2", "truee", "none", "nein"])
@pytest.mark.parametrize("name", ["AUTH_ENABLED", "AUTH_ANONYMOUS"])
def test_unknown_word_is_refused(name: str, word: str) -> None:
    with pytest.raises(ConfigurationError, match=f"{name} is on .*true.* or off .*false.*not '{word}'"):
        guard_of(**{**ON, name: word})


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"AUTH_SECRET": ""},
        {"AUTH_SECRET": "  "},
        {"AUTH_ALGORITHM": "HS256"},
        {"AUTH_ANONYMOUS": "true"},
        {"OIP_PDP_URL": "http://pdp"},
        {"SOCAITY_API_KEYS": " , "},
    ],
)
def test_nobody_could_be_identified(environ: dict[str, str]) -> None:
    with pytest.raises(
        ConfigurationError, match=r"AUTH_SECRET is empty\. Set AUTH_SECRET.*AUTH_ENABLED=false"
    ):
        guard_of(AUTH_ENABLED="true", **environ)


@pytest.mark.parametrize(
    ("environ", "message"),
    [
        ({"AUTH_ALGORITHM": "none"}, "AUTH_ALGORITHM is one of HS256, .*, not 'none'"),
        ({"AUTH_ALGORITHM": "HS256,none"}, "not 'none'"),
        ({"AUTH_ALGORITHM": "hs256"}, "not 'hs256'"),
        ({"AUTH_ALGORITHM": "RS256"}, "set AUTH_PUBLIC_KEY"),
        ({"AUTH_ALGORITHM": "HS256,RS256"}, "set AUTH_PUBLIC_KEY"),
        ({"AUTH_JWKS_URL": "https://issuer/keys"}, "AUTH_ALGORITHM allows none that uses it"),
        ({"AUTH_JWKS_URL": "ftp://issuer/keys", "AUTH_ALGORITHM": "RS256"}, "AUTH_JWKS_URL is no http"),
        ({"AUTH_PUBLIC_KEY": "/there/is/no/key.pem"}, "AUTH_PUBLIC_KEY names the file .*cannot be read"),
        ({"AUTH_LEEWAY": "-1"}, "AUTH_LEEWAY"),
        ({"AUTH_LEEWAY": "long"}, "AUTH_LEEWAY"),
        ({"AUTH_POLICY_TIMEOUT": "0"}, "AUTH_POLICY_TIMEOUT"),
        ({"AUTH_EXEMPT": "health,everything"}, "AUTH_EXEMPT has 'everything'; valid is: health, metrics"),
        ({"OIP_PDP_URL": "pdp:8080"}, "OIP_PDP_URL is no http"),
        ({"OIP_PDP_URL": "http://pdp", "OPA_URL": "http://opa"}, "not both"),
        ({"OIP_PDP_COMPAT": "yes"}, "OIP_PDP_COMPAT is 'aissemble'"),
        ({"SOCAITY_API_KEYS": "only-a-key"}, "Entry 1 of SOCAITY_API_KEYS"),
        ({"SOCAITY_API_KEYS_FILE": "/there/is/no/file"}, "SOCAITY_API_KEYS_FILE names the file"),
    ],
)
def test_what_cannot_be_meant_is_refused(environ: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message) as caught:
        guard_of(**{**ON, **environ})
    assert SECRET not in str(caught.value)
    assert "only-a-key" not in str(caught.value)


def test_public_key_as_secret_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="AUTH_SECRET is a key of a key pair"):
        guard_of(AUTH_ENABLED="on", AUTH_SECRET=public_pem("RS256"))


def test_public_key_comes_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "key.pem"
    file.write_text(public_pem("ES256"))
    guard = guard_of(AUTH_ENABLED="on", AUTH_PUBLIC_KEY=str(file), AUTH_ALGORITHM="ES256")
    assert repr(guard) == "Guard(tokens (ES256))"


def test_certificate_is_a_public_key(tmp_path: Path) -> None:
    from datetime import UTC, datetime, timedelta

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization

    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "issuer")])
    now = datetime.now(UTC)
    key = private_key("RS256")
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now)
        .not_valid_after(now + timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    file = tmp_path / "issuer.pem"
    file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    assert guard_of(AUTH_ENABLED="on", AUTH_PUBLIC_KEY=str(file), AUTH_ALGORITHM="RS256,PS256") is not None


def test_everything_from_the_environment(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text(f"# people\nbob:{KEY}-bob\n\ncarol:sha256:{'0' * 64}\n")
    auth = read_auth(
        environ={
            **ON,
            "AUTH_ALGORITHM": "HS256, HS512",
            "AUTH_AUDIENCE": "us,them",
            "AUTH_ISSUER": "https://issuer",
            "AUTH_LEEWAY": "5",
            "AUTH_REQUIRED_CLAIMS": "none",
            "AUTH_ANONYMOUS": "YES",
            "AUTH_EXEMPT": "none",
            "OIP_PDP_URL": "http://pdp:8080/pdp",
            "OIP_PDP_COMPAT": "aissemble",
            "AUTH_POLICY_TIMEOUT": "2",
            "AUTH_POLICY_TTL": "0",
            "SOCAITY_API_KEYS": f"alice:{KEY}",
            "SOCAITY_API_KEYS_FILE": str(keys),
        }
    )
    assert auth == Auth(
        api_keys=(("alice", KEY), ("bob", f"{KEY}-bob"), ("carol", f"sha256:{'0' * 64}")),
        secret=SECRET,
        algorithms=("HS256", "HS512"),
        audience=("us", "them"),
        issuer="https://issuer",
        leeway=5.0,
        required=(),
        anonymous=True,
        exempt=(),
        pdp_url="http://pdp:8080/pdp",
        pdp_compat=True,
        policy_timeout=2.0,
        policy_ttl=0.0,
    )
    said = repr(auth) + repr(Guard(auth))
    assert not [secret for secret in (SECRET, KEY, "0" * 64) if secret in said]
    assert "Guard(API keys, tokens (HS256, HS512), anonymous, policy at pdp:8080/pdp)" in said


def test_argument_comes_before_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    assert SocaityRouter().dataplane.guard is None
    monkeypatch.setenv("AUTH_ENABLED", "on")
    with pytest.raises(ConfigurationError, match="AUTH_SECRET is empty"):
        SocaityRouter()
    assert SocaityRouter(auth=False).dataplane.guard is None
    given = SocaityRouter(auth=Auth(api_keys={"alice": KEY})).dataplane.guard
    assert repr(given) == "Guard(API keys)"
    monkeypatch.setenv("AUTH_ENABLED", "off")
    assert SocaityRouter().dataplane.guard is None
    monkeypatch.setenv("AUTH_SECRET", SECRET)
    assert repr(SocaityRouter(auth=True).dataplane.guard) == "Guard(tokens (HS256))"


# API keys


def test_key_is_found_by_itself_and_by_its_hash() -> None:
    digest = hashlib.sha256(b"the second key of all").hexdigest()
    keys = APIKeys(
        [("alice", KEY), ("alice", "her next key, for the change"), ("bob", f"sha256:{digest.upper()}")]
    )
    for key, name in (
        (KEY, "alice"),
        ("her next key, for the change", "alice"),
        ("the second key of all", "bob"),
    ):
        found = keys.find(key)
        assert found is not None
        assert (found.name, found.kind, found.owner) == (name, "key", f"key:{name}")
    for wrong in ("", KEY[:-1], KEY + "x", KEY.upper(), digest, f"sha256:{digest}", "é", "\udcff"):
        assert keys.find(wrong) is None
    assert repr(keys) == "APIKeys(alice, bob)"


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ([("alice", KEY), ("bob", KEY)], "the API key of 'bob' is there twice"),
        ([("alice", "")], "'alice' is empty"),
        ([("alice", "sha256:1234")], "not followed by 64 hex digits"),
    ],
)
def test_wrong_key_is_refused_by_its_name(keys: Any, message: str) -> None:
    with pytest.raises(ConfigurationError, match=f"(?i){message}") as caught:
        APIKeys(keys)
    assert KEY not in str(caught.value)


def test_short_key_is_said(caplog: pytest.LogCaptureFixture) -> None:
    APIKeys({"alice": "hunter2"})
    assert "API key of 'alice' has fewer than 16 characters" in caplog.text
    assert "hunter2" not in caplog.text


@pytest.mark.parametrize(
    "text", ["hunter2", "a:one,hunter2", "a b:hunter2", ":hunter2", "name:", "x" * 65 + ":hunter2"]
)
def test_malformed_entry_is_refused_without_being_repeated(text: str) -> None:
    with pytest.raises(ConfigurationError, match="name:key") as caught:
        read_api_keys(text, source="SOCAITY_API_KEYS")
    assert "hunter2" not in str(caught.value)


def test_key_may_have_colons() -> None:
    assert read_api_keys("a:b:c", source="x") == (("a", "b:c"),)


# Around it


def test_origins_of_pages() -> None:
    assert read_cors_origins("https://A.example, http://localhost:3000/") == (
        "https://a.example",
        "http://localhost:3000",
    )
    for wrong in ("*", "example.com", "https://a/path", "null", "https://*.example.com", "https://u@a"):
        with pytest.raises(ConfigurationError, match="SOCAITY_CORS_ORIGINS"):
            read_cors_origins(wrong)


def test_settings_of_tls_and_connections() -> None:
    given = read_settings(
        environ={
            "SOCAITY_TLS_CERT": "c.pem",
            "SOCAITY_TLS_KEY": "k.pem",
            "SOCAITY_CORS_ORIGINS": "http://a",
            "SOCAITY_MAX_CONNECTIONS": "7",
        }
    )
    assert (given.tls_cert, given.tls_key, given.cors_origins, given.max_connections) == (
        "c.pem",
        "k.pem",
        ("http://a",),
        7,
    )
    usual = read_settings(environ={})
    assert (usual.tls_cert, usual.tls_key, usual.cors_origins, usual.max_connections) == (
        None,
        None,
        (),
        16_384,
    )
    with pytest.raises(ConfigurationError, match="SOCAITY_MAX_CONNECTIONS"):
        read_settings(environ={"SOCAITY_MAX_CONNECTIONS": "many"})


@pytest.mark.parametrize(("policy", "warned"), [(None, True), ("http://pdp", False)])
def test_everybody_without_a_policy_is_worth_a_warning(
    caplog: pytest.LogCaptureFixture, policy: str | None, warned: bool
) -> None:
    Auth(api_keys={"a": "k" * 16}, anonymous=True, pdp_url=policy).check()
    assert ("they may do everything" in caplog.text) is warned


@pytest.mark.parametrize("name", ["SOCAITY_API_KEYS", "AUTH_SECRET", "AUTH_JWKS_URL", "OPA_URL"])
def test_what_identifies_and_is_not_used_is_warned_of(name: str, caplog: pytest.LogCaptureFixture) -> None:
    assert read_auth(environ={name: "program:a-key-of-the-tests"}) is None

    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert f"{name} is set: AUTH_ENABLED=true turns it on" in record.getMessage()
    assert "a-key" not in caplog.text


def test_who_says_that_it_is_off_is_not_warned(caplog: pytest.LogCaptureFixture) -> None:
    keys = {"SOCAITY_API_KEYS": "program:a-key-of-the-tests"}

    assert read_auth(False, environ=keys) is None
    assert read_auth(environ={**keys, "AUTH_ENABLED": "false"}) is None
    assert read_auth(environ={}) is None
    assert not caplog.records
