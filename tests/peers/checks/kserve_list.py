"""List B: the eight things that a user of the KServe SDK does first."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import numpy as np
from checks import Address, Checks, is_same
from kserve import InferenceGRPCClient, InferenceRESTClient, InferInput, InferRequest
from kserve.inference_client import RESTConfig
from kserve.protocol.infer_type import RequestedOutput

check = Checks()
FIRST = np.arange(16, dtype=np.int32).reshape(1, 16)
SECOND = np.full((1, 16), 3, np.int32)


def rest() -> InferenceRESTClient:
    return InferenceRESTClient(RESTConfig(protocol="v2"))


def run(coroutine: Coroutine[Any, Any, None]) -> None:
    asyncio.run(coroutine)


def request(*, binary: bool, binary_outputs: bool, request_id: str | None = None) -> InferRequest:
    given = []
    for name, array in (("INPUT0", FIRST), ("INPUT1", SECOND)):
        one = InferInput(name, list(array.shape), "INT32")
        one.set_data_from_numpy(array, binary_data=binary)
        given.append(one)
    wanted = [RequestedOutput(name, {"binary_data": binary_outputs}) for name in ("OUTPUT0", "OUTPUT1")]
    return InferRequest("simple", given, request_id=request_id, request_outputs=wanted)


def is_right(answer: Any, request_id: str | None = None) -> None:
    is_same(answer.model_name, "simple", "model_name")
    if request_id:
        is_same(answer.id, request_id, "the id")
    for name, expected in (("OUTPUT0", FIRST + SECOND), ("OUTPUT1", FIRST - SECOND)):
        got = answer.get_output_by_name(name).as_numpy()
        is_same(got.dtype, expected.dtype, f"the dtype of {name}")
        assert np.array_equal(got, expected), f"{name} is {got}, not {expected}"


def infer(address: Address, name: str, given: InferRequest, headers: dict[str, str] | None = None) -> Any:
    """The answer; its headers go into `headers`."""

    async def ask() -> Any:
        async with rest() as client:
            return await client.infer(
                f"http://{address.http}", given, model_name=name, response_headers=headers
            )

    return asyncio.run(ask())


def is_binary(headers: dict[str, str]) -> bool:
    return "inference-header-content-length" in headers


@check("rest live")
def _(address: Address) -> None:
    async def ask() -> None:
        async with rest() as client:
            is_same(await client.is_server_live(f"http://{address.http}"), True, "live")

    run(ask())


@check("rest ready")
def _(address: Address) -> None:
    async def ask() -> None:
        async with rest() as client:
            is_same(await client.is_server_ready(f"http://{address.http}"), True, "ready")

    run(ask())


@check("rest model ready")
def _(address: Address) -> None:
    async def ask() -> None:
        async with rest() as client:
            is_same(await client.is_model_ready(f"http://{address.http}", "simple"), True, "simple")
            is_same(
                await client.is_model_ready(f"http://{address.http}", "no_such_model"),
                False,
                "an unknown model",
            )

    run(ask())


@check("rest json to json")
def _(address: Address) -> None:
    given = request(binary=False, binary_outputs=False, request_id="an id")
    is_right(infer(address, "simple", given), "an id")


@check("rest binary to json")
def _(address: Address) -> None:
    headers: dict[str, str] = {}
    is_right(infer(address, "simple", request(binary=True, binary_outputs=False), headers))
    is_same(is_binary(headers), False, "whether it came as binary")


@check("rest binary to binary")
def _(address: Address) -> None:
    headers: dict[str, str] = {}
    is_right(infer(address, "simple", request(binary=True, binary_outputs=True), headers))
    is_same(is_binary(headers), True, "whether it came as binary")


@check("grpc raw infer")
def _(address: Address) -> None:
    async def ask() -> None:
        async with InferenceGRPCClient(address.grpc, timeout=20) as client:
            given = request(binary=True, binary_outputs=True, request_id="an id")
            is_right(await client.infer(given), "an id")

    run(ask())


@check("grpc live")
def _(address: Address) -> None:
    async def ask() -> None:
        async with InferenceGRPCClient(address.grpc, timeout=20) as client:
            is_same(await client.is_server_live(), True, "live")

    run(ask())


if __name__ == "__main__":
    check.main()
