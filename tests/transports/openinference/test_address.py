"""Addresses of the Open Inference Protocol."""

from __future__ import annotations

import pytest

from socaity.exceptions import ConfigurationError
from socaity.transport import Target
from socaity_transports.openinference.address import Address, read_address


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("oip+http://host:8000", Address("http://host:8000", False)),
        ("oip+https://host", Address("https://host", False)),
        ("http://host:8000/v2", Address("http://host:8000", False)),
        ("https://host/base/v2/", Address("https://host/base", False)),
        ("oip+http://host/base", Address("http://host/base", False)),
        ("oip+http://host/v2/models/a%2Fb", Address("http://host", False, "a/b")),
        ("oip+http://host/x/v2/models/a/versions/3", Address("http://host/x", False, "a", "3")),
        ("oip+http://host/v2/models/a/b", Address("http://host", False, "a/b")),
        ("oip+http://host/v2/models/a/b/versions/3/", Address("http://host", False, "a/b", "3")),
        ("oip+grpc://host/v2/models/a/b", Address("http://host", True, "a/b")),
        ("oip+http://host/v2/models//b", Address("http://host/v2/models//b", False)),
        ("oip+grpc://host:8001", Address("http://host:8001", True)),
        ("oip+grpcs://host/v2/models/a", Address("https://host", True, "a")),
        ("oip+http://host?binary=false", Address("http://host", False, binary=False)),
        ("oip+http://host?compression=none&binary=1", Address("http://host", False, binary=True)),
        ("oip+grpc://host:1?compression=gzip", Address("http://host:1", True, compression="gzip")),
        ("oip+http://host?stream=a,b", Address("http://host", False, stream=frozenset({"a", "b"}))),
    ],
)
def test_an_address_says_where_and_how(url: str, expected: Address) -> None:
    assert read_address(Target(url)) == expected


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("oip+grpc://host:8001/elsewhere", "has no path"),
        ("oip+http://host?binary=perhaps", "true or false"),
        ("oip+http://host?compression=br", "gzip, deflate or none"),
        ("oip+http://host?key=SECRET", "known: binary, compression, stream"),
        ("oip+http://host?SECRET", "known: binary, compression, stream"),
        ("ftp://host", "no scheme of the Open Inference Protocol"),
    ],
)
def test_what_is_not_understood_is_refused_without_saying_a_secret(url: str, said: str) -> None:
    with pytest.raises(ConfigurationError, match=said) as caught:
        read_address(Target(url))
    assert "SECRET" not in str(caught.value)
