"""Requests as bytes: what the wire format says, as it is sent and answered."""

from __future__ import annotations

import gzip
import http.client
import json
import struct
import time
import zlib
from typing import Any

from checks import Address, Checks, is_same
from wire import (
    INFER,
    LENGTH,
    MIB,
    PATIENCE,
    ROWS,
    Answer,
    ask,
    binary,
    data_of,
    get,
    infer,
    is_refused,
    on,
    rows,
)

check = Checks()


@check("server metadata at /v2 and /v2/")
def _(address: Address) -> None:
    for path in ("/v2", "/v2/"):
        found = get(address, path)
        is_same(sorted(found), ["extensions", "name", "version"], f"the keys of {path}")
        assert "binary_tensor_data" in found["extensions"], found


@check("health has a body")
def _(address: Address) -> None:
    is_same(get(address, "/v2/health/live")["live"], True, "live")
    is_same(get(address, "/v2/health/ready")["ready"], True, "ready")


@check("model metadata")
def _(address: Address) -> None:
    found = get(address, "/v2/models/simple")
    assert {"name", "platform", "inputs", "outputs"} <= set(found), found
    assert None not in found.values(), found
    for one in found["inputs"] + found["outputs"]:
        is_same(sorted(one), ["datatype", "name", "shape"], "the keys of a tensor")


@check("list of models")
def _(address: Address) -> None:
    found = get(address, "/v2/models")["models"]
    assert {"simple", "words"} <= set(found), found


@check("model ready has a body")
def _(address: Address) -> None:
    found = get(address, "/v2/models/simple/ready")
    is_same((found["name"], found["ready"]), ("simple", True), "the answer")
    answer = ask(address, "GET", "/v2/models/no_such_model/ready")
    is_refused(address, answer, 404)


@check("index, ready only")
def _(address: Address) -> None:
    answer = ask(address, "POST", "/v2/repository/index", {"ready": True})
    is_same(answer.status, 200, "the status")
    states = {one["state"] for one in answer.json()}
    is_same(states, {"READY"}, "the states")


@check("errors have their form")
def _(address: Address) -> None:
    is_refused(address, ask(address, "GET", "/v2/models/no_such_model"), 404, "no_such_model")
    is_refused(address, ask(address, "GET", "/v2/no/such/route"), 404)
    is_refused(address, ask(address, "GET", INFER.format("simple")), 405)
    is_refused(address, ask(address, "POST", INFER.format("simple"), b"{"), 400)
    is_refused(address, ask(address, "POST", INFER.format("simple"), b""), 400)
    is_refused(address, ask(address, "POST", INFER.format("simple"), []), 400)
    is_refused(address, ask(address, "POST", INFER.format("simple"), {}), 400)
    is_refused(address, ask(address, "POST", INFER.format("simple"), {"inputs": []}), 400)


@check("answer says what the request was")
def _(address: Address) -> None:
    answer = infer(address, "identity_fp32", rows(1.5, 2.5), id="an id")
    found = answer.json()
    is_same(answer.headers["content-type"].split(";")[0], "application/json", "the content type")
    assert LENGTH.lower() not in answer.headers, "an answer without binary tensors has their header"
    is_same((found["model_name"], found["id"]), ("identity_fp32", "an id"), "the answer")
    is_same(found["outputs"][0]["data"], [1.5, 2.5], "the data")
    assert b"null" not in answer.body, answer.body


@check("no id stays no id")
def _(address: Address) -> None:
    for more in ({}, {"id": ""}):
        assert "id" not in infer(address, "identity_fp32", rows(1), **more).json(), more


@check("content type is not looked at")
def _(address: Address) -> None:
    body = json.dumps({"inputs": [rows(1, 2)]}).encode()
    for kind in (
        "application/json",
        "application/octet-stream",
        "text/plain",
        "application/x-www-form-urlencoded",
    ):
        answer = ask(address, "POST", INFER.format("identity_fp32"), body, {"Content-Type": kind})
        is_same(data_of(answer), [1.0, 2.0], f"the data for {kind}")
    is_same(
        data_of(ask(address, "POST", INFER.format("identity_fp32"), body)), [1.0, 2.0], "the data for none"
    )


@check("unknown keys and model_name are harmless")
def _(address: Address) -> None:
    answer = infer(address, "identity_fp32", rows(1, colour="red"), model_name="something else", more=[1])
    is_same(data_of(answer), [1.0], "the data")


@check("flat and nested data")
def _(address: Address) -> None:
    for data in ([1, 2, 3, 4, 5, 6], [[1, 2, 3], [4, 5, 6]]):
        one = {"name": "INPUT0", "shape": [2, 3], "datatype": "FP32", "data": data}
        answer = infer(address, "identity_fp32_matrix", one)
        is_same(answer.status, 200, f"the status ({answer.body[:300]!r})")
        is_same(answer.json()["outputs"][0]["shape"], [2, 3], "the shape")
    one["data"] = [[1, 2], [3, 4], [5, 6]]
    is_refused(address, infer(address, "identity_fp32_matrix", one), 400, "INPUT0")
    one["data"] = [[1, 2, 3], [4, 5]]
    is_refused(address, infer(address, "identity_fp32_matrix", one), 400, "INPUT0")


@check("numbers that fit, and those that do not")
def _(address: Address) -> None:
    def with_data(datatype: str, *data: Any) -> Answer:
        one = {"name": "INPUT0", "shape": [len(data)], "datatype": datatype, "data": list(data)}
        return infer(address, f"identity_{datatype.lower()}", one)

    is_same(data_of(with_data("FP32", 1, 2, 3)), [1.0, 2.0, 3.0], "whole numbers as FP32")
    is_same(data_of(with_data("UINT64", 0, 2**64 - 1)), [0, 2**64 - 1], "the largest UINT64")
    is_same(data_of(with_data("INT64", -(2**63), 2**63 - 1)), [-(2**63), 2**63 - 1], "the ends of INT64")
    is_same(data_of(with_data("BOOL", True, False)), [True, False], "BOOL")
    is_same(data_of(with_data("BYTES", "größer", "")), ["größer", ""], "BYTES")
    for datatype, *data in (
        ("UINT8", 300),
        ("UINT8", -1),
        ("UINT8", True),
        ("INT8", 128),
        ("INT32", 2**31),
        ("INT64", 2**63),
        ("UINT64", 2**64),
        ("INT32", 1.5),
        ("INT32", "1"),
        ("FP32", "1"),
        ("FP32", {}),
        ("BOOL", 1),
        ("BOOL", "true"),
        ("BYTES", 1),
    ):
        is_refused(address, with_data(datatype, *data), 400, "INPUT0")


@check("empty tensor")
def _(address: Address) -> None:
    answer = infer(address, "identity_fp32", rows())
    is_same(data_of(answer), [], "the data")
    is_same(answer.json()["outputs"][0]["shape"], [0], "the shape")


@check("NaN and Infinity as bare words")
def _(address: Address) -> None:
    body = b'{"inputs":[{"name":"INPUT0","shape":[3],"datatype":"FP32","data":[NaN, Infinity, -Infinity]}]}'
    answer = ask(address, "POST", INFER.format("identity_fp32"), body)
    is_same(data_of(answer), [None, None, None], "what is not finite, as JSON")


@check("binary and JSON in one request")
def _(address: Address) -> None:
    first = {"name": "INPUT0", "shape": [1, 16], "datatype": "INT32", "parameters": {"binary_data_size": 64}}
    second = {"name": "INPUT1", "shape": [1, 16], "datatype": "INT32", "data": [1] * 16}
    wanted = [{"name": "OUTPUT1"}, {"name": "OUTPUT0", "parameters": {"binary_data": True}}]
    body, headers = binary({"inputs": [second, first], "outputs": wanted}, struct.pack("<16i", *range(16)))
    answer = ask(address, "POST", INFER.format("simple"), body, headers)
    is_same(answer.status, 200, f"the status ({answer.body[:300]!r})")
    is_same(answer.headers["content-type"], "application/octet-stream", "the content type")
    length = int(answer.headers[LENGTH.lower()])
    found = json.loads(answer.body[:length])["outputs"]
    is_same([one["name"] for one in found], ["OUTPUT1", "OUTPUT0"], "the names")
    is_same(found[0]["data"], [number - 1 for number in range(16)], "OUTPUT1")
    is_same(struct.unpack("<16i", answer.body[length:]), tuple(number + 1 for number in range(16)), "OUTPUT0")


@check("binary_data_output is the default, an output overrides it")
def _(address: Address) -> None:
    pair = [{"name": f"INPUT{n}", "shape": [1, 16], "datatype": "INT32", "data": [n] * 16} for n in (0, 1)]
    wanted = [{"name": "OUTPUT0"}, {"name": "OUTPUT1", "parameters": {"binary_data": False}}]
    answer = infer(address, "simple", *pair, outputs=wanted, parameters={"binary_data_output": True})
    length = int(answer.headers[LENGTH.lower()])
    found = json.loads(answer.body[:length])["outputs"]
    is_same(["data" in one for one in found], [False, True], "which ones came as JSON")
    answer = infer(address, "simple", *pair, parameters={"binary_data_output": True})
    length = int(answer.headers[LENGTH.lower()])
    is_same(len(answer.body) - length, 128, "the bytes of both")


@check("spaces after the JSON header")
def _(address: Address) -> None:
    head = json.dumps({"inputs": [{**ROWS, "parameters": {"binary_data_size": 8}}]}).encode()
    head += b" " * (-len(head) % 64)
    body = head + struct.pack("<2f", 1, 2)
    answer = ask(address, "POST", INFER.format("identity_fp32"), body, {LENGTH: str(len(head))})
    is_same(data_of(answer), [1.0, 2.0], "the data")


@check("header length 0: one raw tensor")
def _(address: Address) -> None:
    body = struct.pack("<3f", 1, 2, 3)
    answer = ask(address, "POST", INFER.format("identity_fp32_matrix"), body, {LENGTH: "0"})
    is_same(answer.status, 200, f"the status ({answer.body[:300]!r})")
    length = int(answer.headers[LENGTH.lower()])
    output = json.loads(answer.body[:length])["outputs"][0]
    is_same(output["shape"], [1, 3], "the shape: a batch of one")
    is_same(output["parameters"]["binary_data_size"], 12, "binary_data_size")
    is_same(answer.body[length:], body, "the bytes")


@check("header length 0: one raw text")
def _(address: Address) -> None:
    answer = ask(address, "POST", INFER.format("identity_bytes"), b"some text", {LENGTH: "0"})
    is_same(answer.status, 200, f"the status ({answer.body[:300]!r})")
    length = int(answer.headers[LENGTH.lower()])
    is_same(answer.body[length:], struct.pack("<I", 9) + b"some text", "the bytes")


@check("raw request with several inputs")
def _(address: Address) -> None:
    answer = ask(address, "POST", INFER.format("simple"), bytes(64), {LENGTH: "0"})
    is_refused(address, answer, 400, "must only have 1 input")


@check("raw request with two variable dimensions")
def _(address: Address) -> None:
    answer = ask(address, "POST", INFER.format("identity_fp32_cube"), bytes(64), {LENGTH: "0"})
    text = "can not be deduced because there are more than one variable-sized dimension"
    is_refused(address, answer, 400, text)


@check("raw request with BYTES that are not one")
def _(address: Address) -> None:
    answer = ask(address, "POST", INFER.format("identity_bytes_pair"), b"some text", {LENGTH: "0"})
    is_refused(address, answer, 400, "For BYTE datatype raw input 'INPUT0'")


@check("chunked transfer encoding")
def _(address: Address) -> None:
    body = json.dumps({"inputs": [rows(1, 2)]}).encode()
    connection = http.client.HTTPConnection(address.host, address.http_port, timeout=PATIENCE)
    pieces = (body[start : start + 7] for start in range(0, len(body), 7))
    connection.request("POST", INFER.format("identity_fp32"), pieces, encode_chunked=True)
    response = connection.getresponse()
    is_same(json.loads(response.read())["outputs"][0]["data"], [1.0, 2.0], "the data")
    connection.close()


@check("connection lives on after an error")
def _(address: Address) -> None:
    connection = http.client.HTTPConnection(address.host, address.http_port, timeout=PATIENCE)
    for _round in range(3):
        is_same(on(connection, "POST", INFER.format("identity_fp32"), b"{").status, 400, "the status")
        answer = on(connection, "POST", INFER.format("identity_fp32"), {"inputs": [rows(1)]})
        is_same(data_of(answer), [1.0], "the data")
    connection.close()


@check("gzip and deflate both ways")
def _(address: Address) -> None:
    body = json.dumps({"inputs": [rows(*range(1000))]}).encode()
    for name, pack, unpack in (
        ("gzip", gzip.compress, gzip.decompress),
        ("deflate", zlib.compress, zlib.decompress),
    ):
        headers = {"Content-Encoding": name, "Accept-Encoding": name}
        answer = ask(address, "POST", INFER.format("identity_fp32"), pack(body), headers)
        is_same(answer.status, 200, f"the status ({answer.body[:300]!r})")
        is_same(answer.headers.get("content-encoding"), name, "the encoding of the answer")
        found = json.loads(unpack(answer.body))
        is_same(found["outputs"][0]["data"][:3], [0.0, 1.0, 2.0], "the data")


@check("compressed only when infer asks for it alone")
def _(address: Address) -> None:
    every = {"Accept-Encoding": "gzip, deflate, br"}
    for path in ("/v2", "/v2/models/simple", "/v2/models/simple/config", "/v2/models/stats", "/v2/models"):
        answer = ask(address, "GET", path, headers=every)
        assert "content-encoding" not in answer.headers, f"{path} is compressed"
        answer = ask(address, "GET", path, headers={"Accept-Encoding": "gzip"})
        assert "content-encoding" not in answer.headers, f"{path} is compressed"
    body = json.dumps({"inputs": [rows(*range(1000))]}).encode()
    answer = ask(address, "POST", INFER.format("identity_fp32"), body, every)
    assert answer.headers.get("content-encoding") in {None, "gzip", "deflate"}, answer.headers
    answer = ask(address, "POST", INFER.format("identity_fp32"), b"{", {"Accept-Encoding": "gzip"})
    is_refused(address, answer, 400)


@check("damaged and unknown encodings")
def _(address: Address) -> None:
    path = INFER.format("identity_fp32")
    is_refused(address, ask(address, "POST", path, b"no gzip", {"Content-Encoding": "gzip"}), 400)
    whole = gzip.compress(json.dumps({"inputs": [rows(1)]}).encode())
    is_refused(address, ask(address, "POST", path, whole[:-9], {"Content-Encoding": "gzip"}), 400)
    is_refused(address, ask(address, "POST", path, whole, {"Content-Encoding": "br"}), 415)


@check("bomb of zeros is 413")
def _(address: Address) -> None:
    bomb = gzip.compress(bytes(200 * MIB), 9)
    start = time.monotonic()
    answer = ask(
        address, "POST", INFER.format("identity_fp32"), bomb, {"Content-Encoding": "gzip", LENGTH: "0"}
    )
    is_refused(address, answer, 413)
    assert time.monotonic() - start < 10, "it took too long"


if __name__ == "__main__":
    check.main()
