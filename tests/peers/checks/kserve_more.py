"""What else the clients of the KServe SDK send: every datatype, mixed forms, empty tensors; and how they read errors."""

from __future__ import annotations

from typing import Any

import numpy as np
from checks import Address, Checks, is_same, raised
from httpx import HTTPStatusError
from kserve import InferenceGRPCClient, InferInput, InferRequest
from kserve.protocol.infer_type import RequestedOutput
from kserve_list import infer, is_binary, is_right, request, run

check = Checks()
ARRAYS = {
    "BOOL": np.array([True, False, True]),
    "INT8": np.array([-128, 0, 127], np.int8),
    "INT16": np.array([-(2**15), 0, 2**15 - 1], np.int16),
    "INT32": np.array([-(2**31), 0, 2**31 - 1], np.int32),
    "INT64": np.array([-(2**63), 0, 2**63 - 1], np.int64),
    "UINT8": np.array([0, 1, 255], np.uint8),
    "UINT16": np.array([0, 1, 2**16 - 1], np.uint16),
    "UINT32": np.array([0, 1, 2**32 - 1], np.uint32),
    "UINT64": np.array([0, 1, 2**64 - 1], np.uint64),
    "FP16": np.array([-1.5, 0, 65504], np.float16),
    "FP32": np.array([-1.5, 0, 3.4028235e38], np.float32),
    "FP64": np.array([-1.5, 0, 1.7976931348623157e308], np.float64),
    "BYTES": np.array([b"", b"word", "größer".encode()], np.object_),
}


@check("rest json to binary")
def _(address: Address) -> None:
    headers: dict[str, str] = {}
    is_right(infer(address, "simple", request(binary=False, binary_outputs=True), headers))
    is_same(is_binary(headers), True, "whether it came as binary")


@check("rest error has its message")
def _(address: Address) -> None:
    given = request(binary=False, binary_outputs=False)
    error = raised(HTTPStatusError, lambda: infer(address, "no_such_model", given))
    is_same(error.response.status_code, 404, "the status")
    assert str(error).split(", '404")[0].strip(), f"it has no message: {error}"


@check("grpc ready")
def _(address: Address) -> None:
    async def ask() -> None:
        async with InferenceGRPCClient(address.grpc, timeout=20) as client:
            is_same(await client.is_server_ready(), True, "ready")
            is_same(await client.is_model_ready("simple"), True, "whether simple is ready")

    run(ask())


@check("grpc contents, not raw")
def _(address: Address) -> None:
    async def ask() -> None:
        async with InferenceGRPCClient(address.grpc, timeout=20) as client:
            given = request(binary=False, binary_outputs=False)
            is_right(await client.infer(given))

    run(ask())


@check("rest empty binary tensor")
def _(address: Address) -> None:
    one = InferInput("INPUT0", [0], "FP32")
    one.set_data_from_numpy(np.zeros(0, np.float32))
    answer = infer(address, "identity_fp32", InferRequest("identity_fp32", [one]))
    is_same(answer.outputs[0].shape, [0], "the shape")


def add(datatype: str, array: np.ndarray[Any, Any]) -> None:
    model = f"identity_{datatype.lower()}"

    def question(binary: bool) -> InferRequest:
        one = InferInput("INPUT0", list(array.shape), datatype)
        one.set_data_from_numpy(array, binary_data=binary)
        wanted = RequestedOutput("OUTPUT0", {"binary_data": binary})
        return InferRequest(model, [one], request_outputs=[wanted])

    def is_it(answer: Any) -> None:
        output = answer.outputs[0]
        is_same(output.datatype, datatype, "the datatype")
        got = output.as_numpy()
        if datatype == "BYTES":
            got = np.array(
                [one.encode() if isinstance(one, str) else one for one in got.tolist()], np.object_
            )
        is_same(got.tolist(), array.tolist(), "OUTPUT0")

    if datatype != "FP16":  # the client refuses it as JSON

        @check(f"rest json {datatype}")
        def _(address: Address) -> None:
            is_it(infer(address, model, question(False)))

    @check(f"rest binary {datatype}")
    def _(address: Address) -> None:
        is_it(infer(address, model, question(True)))

    @check(f"grpc {datatype}")
    def _(address: Address) -> None:
        async def ask() -> None:
            async with InferenceGRPCClient(address.grpc, timeout=20) as client:
                is_it(await client.infer(question(True)))

        run(ask())


for _datatype, _array in ARRAYS.items():
    add(_datatype, _array)


if __name__ == "__main__":
    check.main()
