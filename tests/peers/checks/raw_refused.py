"""Requests as bytes that break the rules, by mistake or on purpose: each is refused, and the server lives on."""

from __future__ import annotations

import http.client
import json
import socket
import struct

from checks import Address, Checks, is_same
from wire import INFER, LENGTH, PATIENCE, ROWS, Answer, ask, binary, data_of, get, infer, is_refused, rows

check = Checks()


@check("header length that is none")
def _(address: Address) -> None:
    body, _ = binary({"inputs": [{**ROWS, "parameters": {"binary_data_size": 8}}]}, bytes(8))
    for length in ("2147483648", "9" * 30, "x", "-1", "1.5", "0x10", "", str(len(body) + 1)):
        answer = ask(address, "POST", INFER.format("identity_fp32"), body, {LENGTH: length})
        is_refused(address, answer, 400)


@check("binary sizes that do not fit")
def _(address: Address) -> None:
    for size, given in (
        (4, 8),
        (12, 12),
        (8, 4),
        (8, 12),
        (-8, 8),
        ("8", 8),
        (2**40, 8),
        (8.0, 8),
        (True, 8),
    ):
        body, headers = binary({"inputs": [{**ROWS, "parameters": {"binary_data_size": size}}]}, bytes(given))
        is_refused(address, ask(address, "POST", INFER.format("identity_fp32"), body, headers), 400)


@check("data and binary data together")
def _(address: Address) -> None:
    one = {**ROWS, "data": [1, 2], "parameters": {"binary_data_size": 8}}
    body, headers = binary({"inputs": [one]}, bytes(8))
    is_refused(address, ask(address, "POST", INFER.format("identity_fp32"), body, headers), 400)


@check("BYTES whose lengths do not fit")
def _(address: Address) -> None:
    for data in (
        struct.pack("<I", 100) + b"short",
        b"\x01",
        struct.pack("<I", 2**32 - 1),
        b"\x00\x00\x00\x00" * 3,
    ):
        one = {
            "name": "INPUT0",
            "shape": [1],
            "datatype": "BYTES",
            "parameters": {"binary_data_size": len(data)},
        }
        body, headers = binary({"inputs": [one]}, data)
        is_refused(address, ask(address, "POST", INFER.format("identity_bytes"), body, headers), 400)


@check("shape whose product overflows")
def _(address: Address) -> None:
    one = {"name": "INPUT0", "shape": [2**62, 4], "datatype": "FP32", "data": [1]}
    text = "causes total element count to exceed maximum size of"
    is_refused(address, infer(address, "identity_fp32_matrix", one), 400, text)


@check("shape whose bytes overflow")
def _(address: Address) -> None:
    one = {"name": "INPUT0", "shape": [4, 2**60 + 2], "datatype": "FP32", "data": [1.0]}
    is_refused(address, infer(address, "identity_fp32_matrix", one), 400, "byte size overflow for input")


@check("shape that is none")
def _(address: Address) -> None:
    text = "Unable to parse 'shape'"
    for shape in ([-1], [-2], [1.0], ["1"], [True], [None]):
        one = {"name": "INPUT0", "shape": shape, "datatype": "FP32", "data": [1]}
        is_refused(address, infer(address, "identity_fp32", one), 400, text)
    for shape in (None, 1, "1", {}, [2**70], [[1]]):
        one = {"name": "INPUT0", "shape": shape, "datatype": "FP32", "data": [1]}
        is_refused(address, infer(address, "identity_fp32", one), 400)


def nested(address: Address, depth: int, datatype: str, value: str) -> Answer:
    """One value in so many lists; its shape is [1]."""
    data = "[" * depth + value + "]" * depth
    one = f'{{"name":"INPUT0","shape":[1],"datatype":"{datatype}","data":{data}}}'
    return ask(
        address, "POST", INFER.format(f"identity_{datatype.lower()}"), f'{{"inputs":[{one}]}}'.encode()
    )


@check("data nested 50 deep")
def _(address: Address) -> None:
    is_same(data_of(nested(address, 50, "INT64", "123")), [123], "the data")
    is_same(data_of(nested(address, 50, "BYTES", '"hello"')), ["hello"], "the data")


@check("data nested too deep")
def _(address: Address) -> None:
    text = "JSON nesting depth exceeds maximum allowed limit (100)"
    for depth in (101, 120):
        is_refused(address, nested(address, depth, "INT64", "123"), 400, text)
        is_refused(address, nested(address, depth, "BYTES", '"hello"'), 400, text)
    for depth in (5_000, 250_000):
        is_refused(address, nested(address, depth, "FP32", "1"), 400)


@check("index with a body nested too deep")
def _(address: Address) -> None:
    body = b'{"ready":' + b"[" * 250_000 + b"]" * 250_000 + b"}"
    is_refused(address, ask(address, "POST", "/v2/repository/index", body), 400)
    answer = ask(address, "POST", "/v2/repository/index", {"ready": "yes"})
    is_refused(address, answer, 400, "'ready'")


@check("one output asked for twice")
def _(address: Address) -> None:
    answer = infer(address, "identity_fp32", rows(1), outputs=[{"name": "OUTPUT0"}] * 2)
    is_refused(address, answer, 400, "output 'OUTPUT0' already exists in request")


@check("one input given twice, and one that is unknown")
def _(address: Address) -> None:
    is_refused(address, infer(address, "identity_fp32", rows(1), rows(1)), 400, "INPUT0")
    is_refused(address, infer(address, "identity_fp32", rows(1), rows(1, name="INPUT9")), 400, "INPUT9")


@check("wrong types of everything")
def _(address: Address) -> None:
    good = {"inputs": [rows(1)]}
    for wrong in (
        {"inputs": {}},
        {"inputs": [1]},
        {"inputs": None},
        {"inputs": [rows(1, name=1)]},
        {"inputs": [rows(1, datatype="FLOAT")]},
        {"inputs": [rows(1, datatype=None)]},
        {"inputs": [rows(1, parameters=[])]},
        {"inputs": [{"name": "INPUT0", "shape": [1], "datatype": "FP32"}]},
        {**good, "id": 7},
        {**good, "outputs": {}},
        {**good, "outputs": [1]},
        {**good, "outputs": [{"name": 1}]},
        {**good, "parameters": []},
        {**good, "parameters": {"priority": "first"}},
        {**good, "parameters": {"timeout": -1}},
        {**good, "parameters": {"timeout": "soon"}},
        {**good, "parameters": {"binary_data_output": "yes"}},
    ):
        is_refused(address, ask(address, "POST", INFER.format("identity_fp32"), wrong), 400)


@check("body that is too large is 413, before it is sent")
def _(address: Address) -> None:
    with socket.create_connection((address.host, address.http_port), PATIENCE) as connection:
        head = f"POST {INFER.format('identity_fp32')} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {2**40}\r\n\r\n"
        connection.sendall(head.encode())
        response = http.client.HTTPResponse(connection)
        response.begin()
        found = {name.lower(): value for name, value in response.getheaders()}
        is_refused(address, Answer(response.status, found, response.read()), 413)


@check("load with a name that is too long")
def _(address: Address) -> None:
    path = "/v2/repository/models/simple/load"
    files = {"parameters": {"config": "{}", f"file:1/{'x' * 300}": "AAAA"}}
    answer = ask(address, "POST", path, files)
    assert 400 <= answer.status < 600, answer
    assert answer.error()
    is_same(get(address, "/v2/models/simple/ready")["ready"], True, "whether the model is still ready")


@check("paths that lead elsewhere")
def _(address: Address) -> None:
    for name in ("..%2F..%2Fetc%2Fpasswd", "%2e%2e", "a%00b", "x" * 3000):
        answer = ask(address, "GET", f"/v2/models/{name}")
        assert answer.status in {400, 404, 414}, answer
        answer = ask(address, "POST", f"/v2/repository/models/{name}/load", {})
        assert answer.status in {400, 404, 414}, answer
    is_same(get(address, "/v2/health/live")["live"], True, "live")


@check("client that goes away in the middle")
def _(address: Address) -> None:
    for _round in range(20):
        with socket.create_connection((address.host, address.http_port), PATIENCE) as connection:
            head = f"POST {INFER.format('identity_fp32')} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n"
            connection.sendall(head.encode() + b'{"inputs":')
    is_same(data_of(infer(address, "identity_fp32", rows(1))), [1.0], "the data")


@check("full queue says when to come again")
def _(address: Address) -> None:
    body = json.dumps({"inputs": [rows(0.4)]}).encode()
    connections = []
    for _one in range(6):
        connection = http.client.HTTPConnection(address.host, address.http_port, timeout=PATIENCE)
        connection.request("POST", INFER.format("queue_of_one"), body)
        connections.append(connection)
    answers = []
    for connection in connections:
        response = connection.getresponse()
        headers = {name.lower(): value for name, value in response.getheaders()}
        answers.append(Answer(response.status, headers, response.read()))
        connection.close()
    refused = [one for one in answers if one.status != 200]
    is_same({one.status for one in refused}, {503}, "the statuses of those who were refused")
    for one in refused:
        assert one.error()
        assert int(one.headers["retry-after"]) >= 0, one.headers
    assert len(refused) < len(answers), "nobody was served"


if __name__ == "__main__":
    check.main()
