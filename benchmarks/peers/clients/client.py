"""What one Python process gets out of a server: `client.py LIBRARY URL BODIES SECONDS IN_FLIGHT…` prints a rate for each.

Every call sends one row, a list of numbers made JSON (or a tensor, with tritonclient), and reads the answer back into
Python. `aiohttp` and `httpx` take orjson, and all run on uvloop: faster than what most people have.
"""

from __future__ import annotations

import asyncio
import itertools
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import uvloop

Call = Callable[[], Awaitable[Any]]
HEADERS = {"Content-Type": "application/json"}


@asynccontextmanager
async def with_aiohttp(url: str, documents: list[Any]) -> AsyncIterator[Call]:
    import aiohttp

    turn = itertools.cycle(documents)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), headers=HEADERS) as session:

        async def call() -> Any:
            async with session.post(url, data=orjson.dumps(next(turn))) as response:
                assert response.status == 200
                return orjson.loads(await response.read())

        yield call


@asynccontextmanager
async def with_httpx(url: str, documents: list[Any]) -> AsyncIterator[Call]:
    import httpx

    turn = itertools.cycle(documents)
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    async with httpx.AsyncClient(limits=limits, timeout=60, headers=HEADERS) as client:

        async def call() -> Any:
            response = await client.post(url, content=orjson.dumps(next(turn)))
            assert response.status_code == 200
            return orjson.loads(response.content)

        yield call


@asynccontextmanager
async def with_triton_http(url: str, documents: list[Any]) -> AsyncIterator[Call]:
    import tritonclient.http.aio as triton

    async with triton.InferenceServerClient(_address(url), conn_limit=1024) as client:
        # The numbers travel as JSON, and MLServer wants to be told so.
        yield _triton_call(triton, client, url, documents, headers=HEADERS, binary_data=False)


@asynccontextmanager
async def with_triton_http_binary(url: str, documents: list[Any]) -> AsyncIterator[Call]:
    import tritonclient.http.aio as triton

    async with triton.InferenceServerClient(_address(url), conn_limit=1024) as client:
        yield _triton_call(triton, client, url, documents, binary_data=True)


@asynccontextmanager
async def with_triton_grpc(url: str, documents: list[Any]) -> AsyncIterator[Call]:
    import tritonclient.grpc.aio as triton

    host, _, port = _address(url).rpartition(":")
    async with triton.InferenceServerClient(f"{host}:{int(port) + 1}") as client:
        yield _triton_call(triton, client, url, documents)


@asynccontextmanager
async def with_grpc_bytes(url: str, documents: list[Any]) -> AsyncIterator[Call]:
    """Messages made once and answers left as they come: a client that costs as little as it can."""
    import grpc
    from tritonclient.grpc import service_pb2 as messages

    host, _, port = _address(url).rpartition(":")
    model = _model(url)
    requests = []
    for one in documents:
        row = np.array([_row(one)], np.float32)
        made = messages.ModelInferRequest(model_name=model, raw_input_contents=[row.tobytes()])
        made.inputs.add(name="x", datatype="FP32", shape=row.shape)
        requests.append(made.SerializeToString())
    turn = itertools.cycle(requests)
    size = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
    async with grpc.aio.insecure_channel(f"{host}:{int(port) + 1}", options=size) as channel:
        infer = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")

        async def call() -> Any:
            return await infer(next(turn))

        messages.ModelInferResponse.FromString(await call())  # it is an answer
        yield call


def _triton_call(
    triton: Any, client: Any, url: str, documents: list[Any], headers: Any = None, **how: bool
) -> Call:
    """`how` is `binary_data`, which only the HTTP clients know."""
    rows = [np.array([_row(one)], np.float32) for one in documents]
    turn = itertools.cycle(rows)
    model = _model(url)

    async def call() -> Any:
        row = next(turn)
        tensor = triton.InferInput("x", list(row.shape), "FP32")
        tensor.set_data_from_numpy(row, **how)
        result = await client.infer(model, [tensor], headers=headers)
        answer = result.get_response()
        output = answer["outputs"][0]["name"] if isinstance(answer, dict) else answer.outputs[0].name
        return result.as_numpy(output)

    return call


def _row(document: Any) -> list[float]:
    """Of what is sent to MLServer, or to us."""
    return document["inputs"][0]["data"] if "inputs" in document else document["features"][0]


def _model(url: str) -> str:
    parts = url.split("/")
    return parts[parts.index("models") + 1] if "models" in parts else parts[-1]


def _address(url: str) -> str:
    return url.split("/")[2]


LIBRARIES = {
    "aiohttp": with_aiohttp,
    "httpx": with_httpx,
    "tritonclient.http": with_triton_http,
    "tritonclient.http, binary": with_triton_http_binary,
    "tritonclient.grpc": with_triton_grpc,
    "grpc, bytes": with_grpc_bytes,
}


async def rate(call: Call, in_flight: int, seconds: float) -> float:
    """Calls per second with so many tasks that call one after another."""
    ended = 0
    start = time.perf_counter()
    stop_at = start + seconds

    async def work() -> None:
        nonlocal ended
        while time.perf_counter() < stop_at:
            await call()
            ended += 1

    await asyncio.gather(*[work() for _ in range(in_flight)])
    return ended / (time.perf_counter() - start)


async def main(library: str, url: str, documents: list[Any], seconds: float, in_flight: list[int]) -> None:
    async with LIBRARIES[library](url, documents) as call:
        await rate(call, in_flight[0], 0.3)
        for count in in_flight:
            print(await rate(call, count, seconds), flush=True)


if __name__ == "__main__":
    library, url, bodies, seconds, *in_flight = sys.argv[1:]
    documents = [orjson.loads(line) for line in Path(bodies).read_bytes().splitlines()]
    uvloop.run(main(library, url, documents, float(seconds), list(map(int, in_flight))))
