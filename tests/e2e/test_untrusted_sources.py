"""What a service fetches, and what it refuses to: only what its operator has allowed, and only what has the hash."""

from __future__ import annotations

import hashlib
import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest

from socaity.protocol.messagepack import packb
from tests.e2e.servers import DEADLINE, ServerProcess
from tests.e2e.untrusted_source import (
    Answer,
    UntrustedSource,
    dripping,
    endless,
    endless_head,
    silent,
    whole,
)

DATA = packb([1, 2, "three"])
SHA = hashlib.sha256(DATA).hexdigest()
TOKEN = "abcdefghijklmnopqrstuvwx"


@pytest.fixture(scope="module")
def source() -> Iterator[UntrustedSource]:
    with UntrustedSource() as one:
        yield one


@pytest.fixture(scope="module")
def server(source: UntrustedSource) -> Iterator[ServerProcess]:
    env = {"SOCAITY_FETCH_FROM": f"{source.url}, https://models.example", "SOCAITY_FETCH_TIMEOUT": "1"}
    with ServerProcess("pipeline_service:router", env=env) as process:
        yield process


@pytest.fixture(autouse=True)
def nobody_asked(source: UntrustedSource) -> None:
    source.heads.clear()


def echo(server: ServerProcess, value: Any) -> tuple[int, Any]:
    request = urllib.request.Request(
        f"{server.url}/echo",
        json.dumps({"value": value}).encode(),
        {"Content-Type": "application/json"},
    )
    try:
        with urllib.request.urlopen(request, timeout=DEADLINE) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)


def packed(url: str, *, sha: str = SHA, size: int = len(DATA), token: Any = TOKEN) -> dict[str, Any]:
    return {"$packed": sha, "size": size, "from": url, "token": token}


def test_a_result_is_fetched_once_and_without_any_key(server: ServerProcess, source: UntrustedSource) -> None:
    source.how = whole(DATA)
    for _ in range(2):
        assert echo(server, [packed(f"{source.url}/a/blobs/{SHA}"), 4]) == (200, [[1, 2, "three"], 4])
    assert len(source.heads) == 1
    head = source.heads[0].decode().lower()
    assert head.startswith(f"get /a/blobs/{SHA} http/1.1\r\n")
    assert f"socaity-token: {TOKEN}" in head
    assert "authorization" not in head
    assert "cookie" not in head


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:1/blobs/{sha}",
        "http://169.254.169.254/blobs/{sha}",
        "https://models.example.evil/blobs/{sha}",
        "{base}/blobs/{other}",
        "{base}/admin",
        "{base}/admin?x=/blobs/{sha}",
        "{base}/admin#/blobs/{sha}",
        "{base}/blobs/../admin/blobs/{sha}",
        "{base}/%2e%2e/blobs/{sha}",
        "{base}@127.0.0.1:1/blobs/{sha}",
        "http://user:password@{authority}/blobs/{sha}",
        "{base}/blobs/{sha}\r\nX-Injected: 1",
        "{base} /blobs/{sha}",
        "{base}\\@127.0.0.1:1/blobs/{sha}",
        "file:///blobs/{sha}",
        "//{authority}/blobs/{sha}",
        "",
        None,
        7,
    ],
)
def test_no_other_url_is_ever_fetched(server: ServerProcess, source: UntrustedSource, url: Any) -> None:
    sha = hashlib.sha256(repr(url).encode()).hexdigest()
    if isinstance(url, str):
        base, authority = source.url, source.url.removeprefix("http://")
        url = url.format(base=base, authority=authority, sha=sha, other="0" * 64)
    status, problem = echo(server, packed(url, sha=sha))
    assert (status, problem["code"]) == (422, "fetch_refused")
    assert source.heads == []


@pytest.mark.parametrize(
    "token", ["short", "x" * 201, "with space and more text", "line\r\nX-Injected: 1", None, 5]
)
def test_a_malformed_token_is_refused(server: ServerProcess, source: UntrustedSource, token: Any) -> None:
    status, problem = echo(server, packed(f"{source.url}/blobs/{'1' * 64}", sha="1" * 64, token=token))
    assert (status, problem["code"]) == (422, "fetch_refused")
    assert source.heads == []


def test_the_refusal_says_what_to_do(server: ServerProcess) -> None:
    _, problem = echo(server, packed(f"http://10.0.0.7/blobs/{'2' * 64}", sha="2" * 64))
    assert problem["parameter"] == "value"
    assert "does not fetch from http://10.0.0.7:80" in problem["detail"]
    assert "--fetch-from" in problem["detail"]


@pytest.mark.parametrize(
    ("how", "why"),
    [
        (
            whole(b"", "302 Found", "Location: http://127.0.0.1:1/secret"),
            "redirect (HTTP 302), which is not followed",
        ),
        (whole(b"", "401 Unauthorized"), "HTTP 401"),
        (whole(b"", "404 Not Found"), "not published there"),
        (whole(b"", "500 Oops"), "HTTP 500"),
        (whole(b"x" * 100), "another hash"),
        (whole(b"x" * 99), "99 bytes instead of 100"),
        (endless, "larger than 100 bytes"),
        (endless_head, "does not speak HTTP properly"),
        (silent, "1000 bytes instead of 100"),
        (whole(b"", "garbage"), "does not speak HTTP properly"),
        (lambda source, handler: None, "connection broke"),
    ],
)
def test_what_does_not_fit_fails_the_call(
    server: ServerProcess, source: UntrustedSource, how: Answer, why: str
) -> None:
    source.how = how
    sha = "3" * 64
    status, problem = echo(server, packed(f"{source.url}/blobs/{sha}", sha=sha, size=100))
    assert (status, problem["code"]) == (500, "fetch_failed")
    assert why in problem["detail"]
    assert source.url in problem["detail"]
    assert len(source.heads) == 1
    with pytest.raises(urllib.error.HTTPError):
        urllib.request.urlopen(f"{server.url}/blobs/{sha}", timeout=DEADLINE)


@pytest.mark.parametrize("how", [silent, dripping])
def test_a_slow_source_costs_the_deadline_at_most(
    server: ServerProcess, source: UntrustedSource, how: Answer
) -> None:
    source.how = how
    status, problem = echo(server, packed(f"{source.url}/blobs/{'4' * 64}", sha="4" * 64, size=1000))
    assert (status, problem["code"]) == (500, "fetch_failed")
    assert "did not come within 1 s" in problem["detail"]


def test_what_is_larger_than_an_upload_may_be_is_not_asked_for(
    server: ServerProcess, source: UntrustedSource
) -> None:
    status, problem = echo(server, packed(f"{source.url}/blobs/{'5' * 64}", sha="5" * 64, size=2**30 + 1))
    assert (status, problem["code"]) == (422, "fetch_refused")
    assert str(2**30) in problem["detail"]
    assert source.heads == []


def test_an_uploaded_value_needs_no_source(server: ServerProcess) -> None:
    data = packb({"a": [1, 2]})
    sha = hashlib.sha256(data).hexdigest()
    value = {"$packed": sha, "size": len(data)}
    status, problem = echo(server, value)
    assert (status, problem["code"]) == (422, "unknown_blob")
    upload = urllib.request.Request(f"{server.url}/blobs/{sha}", data, method="PUT")
    urllib.request.urlopen(upload, timeout=DEADLINE).close()
    assert echo(server, value) == (200, {"a": [1, 2]})


def test_bytes_that_are_no_packed_value_are_refused(server: ServerProcess) -> None:
    data = b"\xc1 never used"
    sha = hashlib.sha256(data).hexdigest()
    upload = urllib.request.Request(f"{server.url}/blobs/{sha}", data, method="PUT")
    urllib.request.urlopen(upload, timeout=DEADLINE).close()
    status, problem = echo(server, {"$packed": sha, "size": len(data)})
    assert (status, problem["code"]) == (422, "invalid_input")
    assert "no packed value" in problem["detail"]
