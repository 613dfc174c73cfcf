"""Every datatype over all four clients of tritonclient, binary and, where a client can, as JSON; empty tensors and matrices."""

from __future__ import annotations

import asyncio
from typing import Any

import ml_dtypes
import numpy as np
import tritonclient.grpc as over_grpc
import tritonclient.grpc.aio as over_grpc_aio
import tritonclient.http as over_http
import tritonclient.http.aio as over_http_aio
from checks import DEADLINE, Address, Checks, is_same

check = Checks()
INFINITE = [np.inf, -np.inf, np.nan]
ARRAYS = {
    "BOOL": np.array([True, False, True, True]),
    "INT8": np.array([-128, -1, 0, 127], np.int8),
    "INT16": np.array([-(2**15), -1, 0, 2**15 - 1], np.int16),
    "INT32": np.array([-(2**31), -1, 0, 2**31 - 1], np.int32),
    "INT64": np.array([-(2**63), -1, 0, 2**63 - 1], np.int64),
    "UINT8": np.array([0, 1, 200, 255], np.uint8),
    "UINT16": np.array([0, 1, 2**15, 2**16 - 1], np.uint16),
    "UINT32": np.array([0, 1, 2**31, 2**32 - 1], np.uint32),
    "UINT64": np.array([0, 1, 2**63, 2**64 - 1], np.uint64),
    "FP16": np.array([-1.5, 0.1, 65504, 6e-8], np.float16),
    "BF16": np.array([-1.5, 0.1, 3e38, 1e-38], ml_dtypes.bfloat16),
    "FP32": np.array([-1.5, 0.1, 3.4028235e38, 1e-45], np.float32),
    "FP64": np.array([-1.5, 0.1, 1.7976931348623157e308, 5e-324], np.float64),
    "BYTES": np.array([b"", b"word", "größer".encode(), b"x" * 300], np.object_),
}
NOT_TEXT = np.array([b"\x00\xff\xfe", b"\x80", b"", b"\x00"], np.object_)


def question(library: Any, datatype: str, array: np.ndarray[Any, Any], **how: bool) -> dict[str, Any]:
    """The arguments of `infer`; `how` is `binary_data`, which only the HTTP clients know."""
    one = library.InferInput("INPUT0", list(array.shape), datatype)
    one.set_data_from_numpy(array, **how)
    wanted = [library.InferRequestedOutput("OUTPUT0", **how)]
    return {"model_name": f"identity_{datatype.lower()}", "inputs": [one], "outputs": wanted}


def is_it(result: Any, datatype: str, array: np.ndarray[Any, Any]) -> None:
    output = result.get_output("OUTPUT0")
    got_datatype = output["datatype"] if isinstance(output, dict) else output.datatype
    is_same(got_datatype, datatype, "the datatype")
    got = result.as_numpy("OUTPUT0")
    is_same(got.shape, array.shape, "the shape")
    if datatype == "BYTES":
        got = np.array(
            [one.encode() if isinstance(one, str) else one for one in got.ravel().tolist()], np.object_
        )
        is_same(got.tolist(), array.ravel().tolist(), "OUTPUT0")
        return
    is_same(got.dtype, array.dtype, "the dtype")
    is_same(got.tobytes(), array.tobytes(), "the bytes of OUTPUT0")


def by_http(address: Address, datatype: str, array: np.ndarray[Any, Any], **how: bool) -> Any:
    with over_http.InferenceServerClient(address.http) as client:
        return client.infer(**question(over_http, datatype, array, **how))


def by_http_aio(address: Address, datatype: str, array: np.ndarray[Any, Any], **how: bool) -> Any:
    async def ask() -> Any:
        async with over_http_aio.InferenceServerClient(address.http) as client:
            return await client.infer(**question(over_http_aio, datatype, array, **how))

    return asyncio.run(ask())


def by_grpc(address: Address, datatype: str, array: np.ndarray[Any, Any]) -> Any:
    with over_grpc.InferenceServerClient(address.grpc) as client:
        return client.infer(**question(over_grpc, datatype, array), client_timeout=DEADLINE)


def by_grpc_aio(address: Address, datatype: str, array: np.ndarray[Any, Any]) -> Any:
    async def ask() -> Any:
        async with over_grpc_aio.InferenceServerClient(address.grpc) as client:
            return await client.infer(**question(over_grpc_aio, datatype, array), client_timeout=DEADLINE)

    return asyncio.run(ask())


def add(datatype: str, array: np.ndarray[Any, Any]) -> None:
    for name, ask in (("http", by_http), ("http.aio", by_http_aio)):

        @check(f"{name} binary {datatype}")
        def _(address: Address, ask: Any = ask) -> None:
            is_it(ask(address, datatype, array, binary_data=True), datatype, array)

        if datatype != "BF16":  # the client refuses it as JSON

            @check(f"{name} json {datatype}")
            def _(address: Address, ask: Any = ask) -> None:
                # the client would read FP16 back from any numbers; what comes is binary or JSON, as the server can
                is_it(ask(address, datatype, array, binary_data=False), datatype, array)

    for name, ask in (("grpc", by_grpc), ("grpc.aio", by_grpc_aio)):

        @check(f"{name} {datatype}")
        def _(address: Address, ask: Any = ask) -> None:
            is_it(ask(address, datatype, array), datatype, array)

    @check(f"http binary empty {datatype}")
    def _(address: Address) -> None:
        is_it(by_http(address, datatype, array[:0]), datatype, array[:0])

    @check(f"grpc empty {datatype}")
    def _(address: Address) -> None:
        is_it(by_grpc(address, datatype, array[:0]), datatype, array[:0])


for _datatype, _array in ARRAYS.items():
    add(_datatype, _array)


@check("http binary BYTES that are no text")
def _(address: Address) -> None:
    is_it(by_http(address, "BYTES", NOT_TEXT, binary_data=True), "BYTES", NOT_TEXT)


@check("grpc BYTES that are no text")
def _(address: Address) -> None:
    is_it(by_grpc(address, "BYTES", NOT_TEXT), "BYTES", NOT_TEXT)


@check("http binary FP32 that is not finite")
def _(address: Address) -> None:
    array = np.array(INFINITE, np.float32)
    is_it(by_http(address, "FP32", array, binary_data=True), "FP32", array)


@check("http json FP32 that is not finite")
def _(address: Address) -> None:
    array = np.array([1.0, *INFINITE], np.float32)  # sent as the bare words NaN and Infinity
    got = by_http(address, "FP32", array, binary_data=False).as_numpy("OUTPUT0")
    is_same(got.shape, (4,), "the shape")
    is_same(float(got[0]), 1.0, "the first number")
    assert not np.isfinite(got[1:].astype(np.float64)).any(), got


def matrix(address: Address, ask: Any, shape: tuple[int, ...], **how: bool) -> None:
    array = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    given = question(ask, "FP32", array, **how)
    given["model_name"] = "identity_fp32_matrix"
    place = address.grpc if ask is over_grpc else address.http
    with ask.InferenceServerClient(place) as client:
        is_it(client.infer(**given), "FP32", array)


@check("http binary matrix")
def _(address: Address) -> None:
    matrix(address, over_http, (3, 5), binary_data=True)


@check("http json matrix")
def _(address: Address) -> None:
    matrix(address, over_http, (3, 5), binary_data=False)


@check("grpc matrix")
def _(address: Address) -> None:
    matrix(address, over_grpc, (3, 5))


@check("grpc matrix above 4 MiB")
def _(address: Address) -> None:
    matrix(address, over_grpc, (1024, 1100))


@check("http binary matrix above 4 MiB")
def _(address: Address) -> None:
    matrix(address, over_http, (1024, 1100), binary_data=True)


if __name__ == "__main__":
    check.main()
