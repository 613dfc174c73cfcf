"""List A: the twenty things that a user of tritonclient does first, over all four of its clients."""

from __future__ import annotations

import asyncio
import queue
import time
from typing import Any

import numpy as np
import tritonclient.grpc as over_grpc
import tritonclient.grpc.aio as over_grpc_aio
import tritonclient.http as over_http
import tritonclient.http.aio as over_http_aio
from checks import DEADLINE, Address, Checks, is_same, raised
from tritonclient.utils import InferenceServerException

check = Checks()
FIRST = np.arange(16, dtype=np.int32).reshape(1, 16)
SECOND = np.full((1, 16), 3, np.int32)


def inputs(library: Any, **how: bool) -> list[Any]:
    """INPUT0 and INPUT1; `how` is `binary_data`, which only the HTTP clients know."""
    given = []
    for name, array in (("INPUT0", FIRST), ("INPUT1", SECOND)):
        given.append(one_input(library, name, array, "INT32", **how))
    return given


def one_input(library: Any, name: str, array: np.ndarray[Any, Any], datatype: str, **how: bool) -> Any:
    one = library.InferInput(name, list(array.shape), datatype)
    one.set_data_from_numpy(array, **how)
    return one


def outputs(library: Any, *names: str, **how: bool) -> list[Any]:
    return [library.InferRequestedOutput(name, **how) for name in names or ("OUTPUT0", "OUTPUT1")]


def as_json(*names: str) -> tuple[list[Any], list[Any]]:
    """Inputs and outputs of a request with nothing binary: what is not about binary tensors is checked without them."""
    return inputs(over_http, binary_data=False), outputs(over_http, *names, binary_data=False)


def is_right(result: Any) -> None:
    for name, expected in (("OUTPUT0", FIRST + SECOND), ("OUTPUT1", FIRST - SECOND)):
        got = result.as_numpy(name)
        assert got is not None, f"there is no {name}"
        is_same(got.dtype, expected.dtype, f"the dtype of {name}")
        is_same(got.shape, expected.shape, f"the shape of {name}")
        assert np.array_equal(got, expected), f"{name} is {got}, not {expected}"


def refused(call: Any, status: str) -> InferenceServerException:
    """What the call raises; its status is that of HTTP, or the code of gRPC."""
    error = raised(InferenceServerException, call)
    is_same(str(error.status()), status, f"the status ({error.message()})")
    assert "decoding the response" not in error.message(), error.message()
    assert error.message(), "it has no message"
    return error


def is_listed(index: list[dict[str, Any]]) -> None:
    found = {one["name"]: one for one in index}
    assert "simple" in found, f"simple is not among {sorted(found)}"
    is_same(found["simple"].get("state"), "READY", "the state of simple")


def is_counted(before: dict[str, Any], after: dict[str, Any]) -> None:
    """One more success, of one row."""
    old, new = (one["model_stats"][0] for one in (before, after))
    is_same(new["name"], "simple", "the name")
    is_same(
        int(new["inference_count"]) - int(old.get("inference_count", 0)), 1, "how much inference_count grew"
    )
    counts = [int(one["inference_stats"].get("success", {}).get("count", 0)) for one in (old, new)]
    is_same(counts[1] - counts[0], 1, "how much success.count grew")
    assert int(new["inference_stats"]["compute_infer"]["ns"]) > 0, "compute_infer.ns is not positive"
    assert int(new["last_inference"]) > (time.time() - 60) * 1000, "last_inference is not milliseconds of now"


def is_configured(config: dict[str, Any]) -> None:
    is_same(config["name"], "simple", "the name")
    for kind, names in (("input", ["INPUT0", "INPUT1"]), ("output", ["OUTPUT0", "OUTPUT1"])):
        is_same(sorted(one["name"] for one in config[kind]), names, f"the names of each {kind}")
        is_same({one["data_type"] for one in config[kind]}, {"TYPE_INT32"}, f"the data_type of each {kind}")
        # without the axis of the batch, if the model has one
        expected = [16] if int(config.get("max_batch_size", 0)) else [-1, 16]
        is_same([list(map(int, one["dims"])) for one in config[kind]], [expected] * 2, f"dims of each {kind}")


@check("http json to json")
def _(address: Address) -> None:
    with over_http.InferenceServerClient(address.http) as client:
        given, wanted = as_json()
        result = client.infer("simple", given, outputs=wanted)
        is_right(result)
        for one in result.get_response()["outputs"]:
            assert "data" in one, f"{one['name']} did not come as JSON"


@check("http binary to binary")
def _(address: Address) -> None:
    with over_http.InferenceServerClient(address.http) as client:
        result = client.infer("simple", inputs(over_http), outputs=outputs(over_http))
        is_right(result)
        for one in result.get_response()["outputs"]:
            is_same(one["parameters"]["binary_data_size"], 64, f"binary_data_size of {one['name']}")


@check("http binary, outputs not named")
def _(address: Address) -> None:
    with over_http.InferenceServerClient(address.http) as client:
        result = client.infer("simple", inputs(over_http))
        is_right(result)
        for one in result.get_response()["outputs"]:
            assert "data" not in one, (
                f"{one['name']} came as JSON, though the request says binary_data_output"
            )


@check("http gzip both ways")
def _(address: Address) -> None:
    with over_http.InferenceServerClient(address.http) as client:
        is_right(
            client.infer(
                "simple",
                inputs(over_http),
                request_compression_algorithm="gzip",
                response_compression_algorithm="gzip",
            )
        )


@check("http id")
def _(address: Address) -> None:
    with over_http.InferenceServerClient(address.http) as client:
        given, wanted = as_json()
        answer = client.infer("simple", given, outputs=wanted, request_id="one-two").get_response()
        is_same(answer["id"], "one-two", "the id")


@check("http some of the outputs")
def _(address: Address) -> None:
    with over_http.InferenceServerClient(address.http) as client:
        given, wanted = as_json("OUTPUT1")
        result = client.infer("simple", given, outputs=wanted)
        is_same(
            [one["name"] for one in result.get_response()["outputs"]], ["OUTPUT1"], "the names of the outputs"
        )
        assert np.array_equal(result.as_numpy("OUTPUT1"), FIRST - SECOND)


@check("http unknown model is 404")
def _(address: Address) -> None:
    with over_http.InferenceServerClient(address.http) as client:
        given, wanted = as_json()
        refused(lambda: client.infer("no_such_model", given, outputs=wanted), "404")
        refused(lambda: client.get_model_metadata("no_such_model"), "404")


@check("http wrong shape is 400")
def _(address: Address) -> None:
    with over_http.InferenceServerClient(address.http) as client:
        wrong = []
        for name in ("INPUT0", "INPUT1"):
            one = over_http.InferInput(name, [1, 15], "INT32")
            one.set_data_from_numpy(np.zeros((1, 15), np.int32), binary_data=False)
            wrong.append(one)
        refused(lambda: client.infer("simple", wrong, outputs=as_json()[1]), "400")


@check("http index with an empty body")
def _(address: Address) -> None:
    with over_http.InferenceServerClient(address.http) as client:
        is_listed(client.get_model_repository_index())


@check("http statistics")
def _(address: Address) -> None:
    with over_http.InferenceServerClient(address.http) as client:
        before = client.get_inference_statistics("simple")
        given, wanted = as_json()
        client.infer("simple", given, outputs=wanted)
        is_counted(before, client.get_inference_statistics("simple"))


@check("http configuration")
def _(address: Address) -> None:
    with over_http.InferenceServerClient(address.http) as client:
        is_configured(client.get_model_config("simple"))


@check("http.aio infer")
def _(address: Address) -> None:
    async def ask() -> None:
        async with over_http_aio.InferenceServerClient(address.http) as client:
            given, wanted = inputs(over_http_aio), outputs(over_http_aio)
            is_right(await client.infer("simple", given, outputs=wanted))
            is_right(await client.infer("simple", inputs(over_http_aio, binary_data=False)))

    asyncio.run(ask())


@check("grpc raw infer")
def _(address: Address) -> None:
    with over_grpc.InferenceServerClient(address.grpc) as client:
        result = client.infer(
            "simple", inputs(over_grpc), outputs=outputs(over_grpc), client_timeout=DEADLINE
        )
        is_right(result)
        is_same(len(result.get_response().raw_output_contents), 2, "how many raw outputs there are")


@check("grpc id")
def _(address: Address) -> None:
    with over_grpc.InferenceServerClient(address.grpc) as client:
        result = client.infer("simple", inputs(over_grpc), request_id="three", client_timeout=DEADLINE)
        is_same(result.get_response().id, "three", "the id")


@check("grpc live and ready")
def _(address: Address) -> None:
    with over_grpc.InferenceServerClient(address.grpc) as client:
        is_same(client.is_server_live(client_timeout=DEADLINE), True, "live")
        is_same(client.is_server_ready(client_timeout=DEADLINE), True, "ready")
        is_same(client.is_model_ready("simple", client_timeout=DEADLINE), True, "whether simple is ready")


@check("grpc unknown model is NOT_FOUND")
def _(address: Address) -> None:
    with over_grpc.InferenceServerClient(address.grpc) as client:
        refused(
            lambda: client.infer("no_such_model", inputs(over_grpc), client_timeout=DEADLINE),
            "StatusCode.NOT_FOUND",
        )


@check("grpc client_timeout")
def _(address: Address) -> None:
    with over_grpc.InferenceServerClient(address.grpc) as client:
        is_same(client.is_server_live(client_timeout=DEADLINE), True, "live")  # it is connected
        one = over_grpc.InferInput("INPUT0", [1], "FP32")
        one.set_data_from_numpy(np.array([5], np.float32))
        start = time.monotonic()
        refused(lambda: client.infer("slow", [one], client_timeout=0.5), "StatusCode.DEADLINE_EXCEEDED")
        assert time.monotonic() - start < 4, "it came too late"
        # and in time it is answered
        one.set_data_from_numpy(np.array([0], np.float32))
        is_same(
            client.infer("slow", [one], client_timeout=DEADLINE).as_numpy("OUTPUT0").tolist(),
            [0.0],
            "OUTPUT0",
        )


@check("grpc stream")
def _(address: Address) -> None:
    answers: queue.Queue[tuple[Any, Any]] = queue.Queue()
    with over_grpc.InferenceServerClient(address.grpc) as client:
        client.start_stream(lambda result, error: answers.put((result, error)), stream_timeout=DEADLINE / 3)
        client.async_stream_infer("simple", inputs(over_grpc), request_id="of a stream")
        result, error = answers.get(timeout=DEADLINE / 3)
        if error is not None:
            raise error
        is_right(result)
        is_same(result.get_response().id, "of a stream", "the id")
        client.stop_stream()


@check("grpc.aio infer")
def _(address: Address) -> None:
    async def ask() -> None:
        async with over_grpc_aio.InferenceServerClient(address.grpc) as client:
            given, wanted = inputs(over_grpc_aio), outputs(over_grpc_aio)
            is_right(await client.infer("simple", given, outputs=wanted, client_timeout=DEADLINE))

    asyncio.run(ask())


@check("grpc index, configuration, statistics")
def _(address: Address) -> None:
    with over_grpc.InferenceServerClient(address.grpc) as client:
        is_listed(client.get_model_repository_index(as_json=True, client_timeout=DEADLINE)["models"])
        config = client.get_model_config("simple", as_json=True, client_timeout=DEADLINE)["config"]
        is_configured(config)
        before = client.get_inference_statistics("simple", as_json=True, client_timeout=DEADLINE)
        client.infer("simple", inputs(over_grpc), client_timeout=DEADLINE)
        is_counted(before, client.get_inference_statistics("simple", as_json=True, client_timeout=DEADLINE))


if __name__ == "__main__":
    check.main()
