"""Which addresses an operator may name, and which URLs of callers are at them."""

import pytest

from socaity.exceptions import ConfigurationError, InvalidInputError
from socaity.protocol.origin import origin_of
from socaity_server import SocaityRouter
from socaity_server.origins import read_origin, read_origins, read_source
from socaity_server.settings import read_settings

SHA = "a" * 64
TOKEN = "t" * 32


@pytest.mark.parametrize(
    ("text", "origin"),
    [
        ("http://models", "http://models:80"),
        ("HTTPS://Models.Example/", "https://models.example:443"),
        ("http://10.0.0.1:8000", "http://10.0.0.1:8000"),
        ("http://[::1]:8000", "http://[::1]:8000"),
        ("https://[fe80::1]", "https://[fe80::1]:443"),
    ],
)
def test_an_origin_has_one_spelling(text: str, origin: str) -> None:
    assert read_origin(text) == origin
    assert origin_of(origin + "/any/path?query") == origin


@pytest.mark.parametrize(
    "text",
    [
        "models:8000",
        "ftp://models",
        "http://",
        "http://models/path",
        "http://models?x",
        "http://user@models",
        "http://models:0",
        "http://models:99999",
        "http://*",
        "http://*.models",
        "*",
        "http://möbel",
        "http://a b",
    ],
)
def test_what_is_no_origin_is_refused(text: str) -> None:
    with pytest.raises(ConfigurationError, match="not the address of a service"):
        read_origin(text)


def test_a_source_keeps_its_token_out_of_sight() -> None:
    source = read_source(f"https://Models/a/blobs/{SHA}", TOKEN, SHA, ["https://models:443"])
    assert (source.host, source.port, source.is_secure, source.path) == (
        "models",
        443,
        True,
        f"/a/blobs/{SHA}",
    )
    assert TOKEN not in repr(source)
    source = read_source(f"http://[::1]:81/blobs/{SHA}", TOKEN, SHA, ["http://[::1]:81"])
    assert (source.host, source.port, source.is_secure) == ("::1", 81, False)


@pytest.mark.parametrize(
    "url",
    [f"http://models/blobs/{SHA}", f"https://models:444/blobs/{SHA}", f"https://models.evil/blobs/{SHA}"],
)
def test_scheme_host_and_port_have_to_be_the_same(url: str) -> None:
    with pytest.raises(InvalidInputError) as refused:
        read_source(url, TOKEN, SHA, ["https://models:443"])
    assert refused.value.code == "fetch_refused"


def test_nothing_is_fetched_unless_somebody_says_so() -> None:
    assert read_settings(environ={}).fetch_from == ()
    assert SocaityRouter().dataplane.fetch_from == ()


def test_an_argument_wins_over_the_environment() -> None:
    environ = {"SOCAITY_FETCH_FROM": "http://a, http://b:1  http://a", "SOCAITY_PUBLIC_URL": "https://me/x/"}
    settings = read_settings(environ=environ)
    assert settings.fetch_from == ("http://a:80", "http://b:1") == read_origins("http://a:80 http://b:1")
    assert settings.public_url == "https://me/x"
    settings = read_settings(fetch_from=["http://c"], public_url="http://you", environ=environ)
    assert (settings.fetch_from, settings.public_url) == (("http://c:80",), "http://you")
    assert read_settings(fetch_from=[], environ=environ).fetch_from == ()


@pytest.mark.parametrize(
    "environ",
    [
        {"SOCAITY_FETCH_FROM": "somewhere"},
        {"SOCAITY_FETCH_TIMEOUT": "0"},
        {"SOCAITY_PUBLIC_URL": "me"},
        {"SOCAITY_PUBLIC_URL": "http://user:secret@me"},
    ],
)
def test_a_wrong_setting_is_refused_at_the_start(environ: dict[str, str]) -> None:
    with pytest.raises(ConfigurationError):
        read_settings(environ=environ)
