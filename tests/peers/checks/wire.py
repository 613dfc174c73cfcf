"""One HTTP request at a time with the standard library alone: nothing is put right on the way."""

from __future__ import annotations

import http.client
import json
from typing import Any, NamedTuple

from checks import Address, is_same

PATIENCE = 20.0
LENGTH = "Inference-Header-Content-Length"
INFER = "/v2/models/{}/infer"
ROWS = {"name": "INPUT0", "shape": [2], "datatype": "FP32"}
MIB = 2**20


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body, parse_constant=_no_constant)

    def error(self) -> str:
        """The message; raises if the answer is not as the protocol wants errors."""
        is_same(self.headers.get("content-type"), "application/json", "the content type of the error")
        assert "content-encoding" not in self.headers, "the error is compressed"
        found = self.json()
        is_same(sorted(found), ["error"], "the keys of the error")
        assert isinstance(found["error"], str), found
        assert found["error"], "the error is empty"
        return found["error"]


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def ask(
    address: Address, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None
) -> Answer:
    """One request on a connection of its own. A body that is no bytes is sent as JSON."""
    connection = http.client.HTTPConnection(address.host, address.http_port, timeout=PATIENCE)
    try:
        return on(connection, method, path, body, headers)
    finally:
        connection.close()


def on(
    connection: http.client.HTTPConnection,
    method: str,
    path: str,
    body: Any = None,
    headers: dict[str, str] | None = None,
) -> Answer:
    data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
    connection.request(method, path, data, headers or {})
    response = connection.getresponse()
    found = {name.lower(): value for name, value in response.getheaders()}
    return Answer(response.status, found, response.read())


def get(address: Address, path: str) -> Any:
    answer = ask(address, "GET", path)
    is_same(answer.status, 200, f"the status of {path} ({answer.body[:200]!r})")
    return answer.json()


def infer(address: Address, model: str, *inputs: Any, **more: Any) -> Answer:
    return ask(address, "POST", INFER.format(model), {"inputs": list(inputs), **more})


def rows(*values: Any, **more: Any) -> dict[str, Any]:
    """INPUT0, FP32, one-dimensional."""
    return {"name": "INPUT0", "shape": [len(values)], "datatype": "FP32", "data": list(values), **more}


def binary(model: dict[str, Any], *tensors: bytes) -> tuple[bytes, dict[str, str]]:
    """A body with binary tensors, and its headers."""
    head = json.dumps(model).encode()
    return head + b"".join(tensors), {LENGTH: str(len(head))}


def is_refused(address: Address, answer: Answer, status: int, text: str = "") -> None:
    """The status, an error with that text, and a server that lives."""
    is_same(answer.status, status, f"the status ({answer.body[:300]!r})")
    message = answer.error()
    assert text.lower() in message.lower(), f"the error is {message!r}, without {text!r}"
    is_same(get(address, "/v2/health/live")["live"], True, "live")


def data_of(answer: Answer, name: str = "OUTPUT0") -> Any:
    is_same(answer.status, 200, f"the status ({answer.body[:300]!r})")
    return next(one for one in answer.json()["outputs"] if one["name"] == name)["data"]
