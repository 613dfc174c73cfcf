"""Every question that both asynchronous clients of tritonclient have, down to tracing and shared memory."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import tritonclient.grpc.aio as over_grpc
import tritonclient.http.aio as over_http
from checks import Address, Checks, is_same, raised_later
from google.protobuf.json_format import MessageToDict
from tritonclient.utils import InferenceServerException

check = Checks()
NOT_THERE = {"501", "StatusCode.UNIMPLEMENTED"}
Ask = Callable[[Any], Awaitable[Any]]


def as_dict(answer: Any) -> Any:
    """What both clients give, as one form."""
    if isinstance(answer, dict | list | bool) or answer is None:
        return answer
    return MessageToDict(answer, preserving_proto_field_name=True)


def add(name: str, ask: Ask, is_right: Callable[[Any], bool], *, extension: str = "") -> None:
    """What belongs to an `extension` may be refused, if the server does not say that it has it."""
    for library in (over_http, over_grpc):
        kind = "http.aio" if library is over_http else "grpc.aio"

        @check(f"{kind} {name}")
        def _(address: Address, library: Any = library) -> None:
            async def run() -> None:
                place = address.http if library is over_http else address.grpc
                async with library.InferenceServerClient(place) as client:
                    try:
                        answer = as_dict(await ask(client))
                    except InferenceServerException as exc:
                        said = as_dict(await client.get_server_metadata())
                        if not extension or extension in said["extensions"]:
                            raise
                        is_same(str(exc.status()) in NOT_THERE, True, f"that {exc} says that it is not there")
                        return
                    assert is_right(answer), f"the answer is {answer!r}"

            asyncio.run(run())


def add_refused(name: str, ask: Ask) -> None:
    """It is an error with a message, and the connection is good for more."""

    async def refused(client: Any) -> bool:
        error = await raised_later(InferenceServerException, ask(client))
        assert error.message(), "the error has no message"
        assert "decoding the response" not in error.message(), error.message()
        return bool(await client.is_server_live())

    add(name, refused, bool)


add("live", lambda client: client.is_server_live(), lambda answer: answer is True)
add("ready", lambda client: client.is_server_ready(), lambda answer: answer is True)
add("model ready", lambda client: client.is_model_ready("simple"), lambda answer: answer is True)
add("server metadata", lambda client: client.get_server_metadata(), lambda answer: bool(answer["name"]))
add(
    "model metadata",
    lambda client: client.get_model_metadata("simple"),
    lambda answer: answer["name"] == "simple",
)
add(
    "model configuration",
    lambda client: client.get_model_config("simple"),
    lambda answer: answer.get("config", answer)["name"] == "simple",
)
add(
    "index",
    lambda client: client.get_model_repository_index(),
    lambda answer: len(answer if isinstance(answer, list) else answer["models"]) > 1,
)
add(
    "statistics", lambda client: client.get_inference_statistics(), lambda answer: bool(answer["model_stats"])
)
add(
    "trace settings",
    lambda client: client.get_trace_settings(),
    lambda answer: isinstance(answer, dict),
    extension="trace",
)
add(
    "trace settings changed",
    lambda client: client.update_trace_settings(),
    lambda answer: isinstance(answer, dict),
    extension="trace",
)
add(
    "log settings",
    lambda client: client.get_log_settings(),
    lambda answer: isinstance(answer, dict),
    extension="logging",
)
add(
    "system shared memory: none",
    lambda client: client.get_system_shared_memory_status(),
    lambda answer: not answer,
    extension="system_shared_memory",
)
add(
    "system shared memory: forget all",
    lambda client: client.unregister_system_shared_memory(),
    lambda answer: not answer,
    extension="system_shared_memory",
)
add_refused(
    "system shared memory is not taken",
    lambda client: client.register_system_shared_memory("region", "/region", 64),
)
add(
    "CUDA shared memory: none",
    lambda client: client.get_cuda_shared_memory_status(),
    lambda answer: not answer,
    extension="cuda_shared_memory",
)
add(
    "CUDA shared memory: forget all",
    lambda client: client.unregister_cuda_shared_memory(),
    lambda answer: not answer,
    extension="cuda_shared_memory",
)
add_refused(
    "CUDA shared memory is not taken",
    lambda client: client.register_cuda_shared_memory("region", b"aGFuZGxl", 0, 64),
)


if __name__ == "__main__":
    check.main()
