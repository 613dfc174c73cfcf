"""What else tritonclient can put into a request: compression, mixed forms, parameters, classification; and wrong requests."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import tritonclient.grpc as over_grpc
import tritonclient.http as over_http
import tritonclient.http.aio as over_http_aio
from checks import DEADLINE, Address, Checks, is_same
from triton_list import FIRST, SECOND, as_json, inputs, is_right, one_input, outputs, refused

check = Checks()
PATIENCE = 10.0


for algorithm in ("gzip", "deflate"):

    @check(f"http {algorithm} request")
    def _(address: Address, algorithm: str = algorithm) -> None:
        with over_http.InferenceServerClient(address.http) as client:
            is_right(client.infer("simple", inputs(over_http), request_compression_algorithm=algorithm))

    @check(f"http {algorithm} answer")
    def _(address: Address, algorithm: str = algorithm) -> None:
        with over_http.InferenceServerClient(address.http) as client:
            is_right(client.infer("simple", inputs(over_http), response_compression_algorithm=algorithm))

    @check(f"http json {algorithm} both ways")
    def _(address: Address, algorithm: str = algorithm) -> None:
        both = {"request_compression_algorithm": algorithm, "response_compression_algorithm": algorithm}
        with over_http.InferenceServerClient(address.http) as client:
            given, wanted = as_json()
            is_right(client.infer("simple", given, outputs=wanted, **both))

    @check(f"http.aio {algorithm} both ways")
    def _(address: Address, algorithm: str = algorithm) -> None:
        async def ask() -> None:
            both = {"request_compression_algorithm": algorithm, "response_compression_algorithm": algorithm}
            async with over_http_aio.InferenceServerClient(address.http) as client:
                is_right(await client.infer("simple", inputs(over_http_aio), **both))

        asyncio.run(ask())

    @check(f"grpc {algorithm}")
    def _(address: Address, algorithm: str = algorithm) -> None:
        with over_grpc.InferenceServerClient(address.grpc) as client:
            is_right(
                client.infer(
                    "simple", inputs(over_grpc), compression_algorithm=algorithm, client_timeout=DEADLINE
                )
            )


@check("http mixed forms of inputs and outputs")
def _(address: Address) -> None:
    with over_http.InferenceServerClient(address.http) as client:
        given = [
            one_input(over_http, "INPUT0", FIRST, "INT32", binary_data=False),
            one_input(over_http, "INPUT1", SECOND, "INT32", binary_data=True),
        ]
        wanted = [
            over_http.InferRequestedOutput("OUTPUT0", binary_data=True),
            over_http.InferRequestedOutput("OUTPUT1", binary_data=False),
        ]
        result = client.infer("simple", given, outputs=wanted)
        is_right(result)
        is_same("data" in result.get_output("OUTPUT0"), False, "whether OUTPUT0 came as JSON")
        is_same("data" in result.get_output("OUTPUT1"), True, "whether OUTPUT1 came as JSON")


@check("http outputs in the order asked for")
def _(address: Address) -> None:
    with over_http.InferenceServerClient(address.http) as client:
        is_right(client.infer("simple", inputs(over_http), outputs=outputs(over_http, "OUTPUT1", "OUTPUT0")))


@check("http unknown output is 400")
def _(address: Address) -> None:
    with over_http.InferenceServerClient(address.http) as client:
        refused(
            lambda: client.infer("simple", inputs(over_http), outputs=outputs(over_http, "NO_SUCH")), "400"
        )


@check("http wrong datatype is 400")
def _(address: Address) -> None:
    with over_http.InferenceServerClient(address.http) as client:
        wrong = [
            one_input(over_http, name, FIRST.astype(np.float32), "FP32") for name in ("INPUT0", "INPUT1")
        ]
        refused(lambda: client.infer("simple", wrong), "400")


@check("http missing input is 400")
def _(address: Address) -> None:
    with over_http.InferenceServerClient(address.http) as client:
        refused(lambda: client.infer("simple", inputs(over_http)[:1]), "400")


@check("grpc wrong requests are INVALID_ARGUMENT")
def _(address: Address) -> None:
    with over_grpc.InferenceServerClient(address.grpc) as client:
        wrong = "StatusCode.INVALID_ARGUMENT"
        ask = client.infer
        refused(lambda: ask("simple", inputs(over_grpc)[:1], client_timeout=DEADLINE), wrong)
        none = outputs(over_grpc, "NO_SUCH")
        refused(lambda: ask("simple", inputs(over_grpc), outputs=none, client_timeout=DEADLINE), wrong)
        bad = [one_input(over_grpc, name, FIRST[:, :15], "INT32") for name in ("INPUT0", "INPUT1")]
        refused(lambda: ask("simple", bad, client_timeout=DEADLINE), wrong)
        bad = [one_input(over_grpc, name, FIRST.astype(np.int64), "INT64") for name in ("INPUT0", "INPUT1")]
        refused(lambda: ask("simple", bad, client_timeout=DEADLINE), wrong)


PARAMETERS = {"colour": "red", "count": 3, "share": 0.5, "is_it": True}


def is_described(result: Any) -> None:
    got = result.as_numpy("OUTPUT0").ravel()[0]
    is_same(got if isinstance(got, str) else got.decode(), "1.5 red 3 0.5 True", "what arrived")


@check("http parameters reach the function")
def _(address: Address) -> None:
    with over_http.InferenceServerClient(address.http) as client:
        one = one_input(over_http, "INPUT0", np.array([1.5]), "FP64")
        is_described(client.infer("described", [one], parameters=PARAMETERS))


@check("grpc parameters reach the function")
def _(address: Address) -> None:
    with over_grpc.InferenceServerClient(address.grpc) as client:
        one = one_input(over_grpc, "INPUT0", np.array([1.5]), "FP64")
        is_described(client.infer("described", [one], parameters=PARAMETERS, client_timeout=DEADLINE))


@check("http priority, sequence and timeout")
def _(address: Address) -> None:
    with over_http.InferenceServerClient(address.http) as client:
        is_right(client.infer("simple", inputs(over_http), priority=1, timeout=20_000_000))
        first = {"sequence_id": 7, "sequence_start": True, "sequence_end": True}
        is_right(client.infer("simple", inputs(over_http), **first))
        is_right(client.infer("simple", inputs(over_http), **{**first, "sequence_id": "seven"}))


@check("grpc priority, sequence and timeout")
def _(address: Address) -> None:
    with over_grpc.InferenceServerClient(address.grpc) as client:
        how = {"client_timeout": DEADLINE}
        is_right(client.infer("simple", inputs(over_grpc), priority=1, timeout=20_000_000, **how))
        first = {"sequence_id": 7, "sequence_start": True, "sequence_end": True, **how}
        is_right(client.infer("simple", inputs(over_grpc), **first))
        is_right(client.infer("simple", inputs(over_grpc), **{**first, "sequence_id": "seven"}))


PROBABILITIES = np.array([[0.1, 0.7, 0.2], [0.5, 0.1, 0.4]], np.float32)


@check("http classification")
def _(address: Address) -> None:
    with over_http.InferenceServerClient(address.http) as client:
        one = one_input(over_http, "INPUT0", PROBABILITIES, "FP32")
        wanted = [over_http.InferRequestedOutput("OUTPUT0", class_count=2)]
        is_classified(client.infer("identity_fp32_matrix", [one], outputs=wanted))
        wanted = [over_http.InferRequestedOutput("OUTPUT0", binary_data=False, class_count=2)]
        is_classified(client.infer("identity_fp32_matrix", [one], outputs=wanted))


@check("grpc classification")
def _(address: Address) -> None:
    with over_grpc.InferenceServerClient(address.grpc) as client:
        one = one_input(over_grpc, "INPUT0", PROBABILITIES, "FP32")
        wanted = [over_grpc.InferRequestedOutput("OUTPUT0", class_count=2)]
        is_classified(client.infer("identity_fp32_matrix", [one], outputs=wanted, client_timeout=DEADLINE))


def is_classified(result: Any) -> None:
    """The two highest of each row, as value and index."""
    got = result.as_numpy("OUTPUT0")
    is_same(got.shape, (2, 2), "the shape")
    texts = [one if isinstance(one, str) else one.decode() for one in got.ravel()]
    is_same([int(one.split(":")[1]) for one in texts], [1, 2, 0, 2], "the indices")
    values = [float(one.split(":")[0]) for one in texts]
    assert np.allclose(values, [0.7, 0.2, 0.5, 0.4]), values


@check("texts as numbers")
def _(address: Address) -> None:
    """`simple_string`: numbers written as text, [1, 16] BYTES each; their sum and difference as text."""
    for library, place in ((over_http, address.http), (over_grpc, address.grpc)):
        with library.InferenceServerClient(place) as client:
            given = [
                one_input(
                    library, name, np.array([[str(one).encode() for one in array[0]]], np.object_), "BYTES"
                )
                for name, array in (("INPUT0", FIRST), ("INPUT1", SECOND))
            ]
            result = client.infer("simple_string", given)
            got = [int(one) for one in result.as_numpy("OUTPUT0").ravel()]
            is_same(got, (FIRST + SECOND).ravel().tolist(), "OUTPUT0")


if __name__ == "__main__":
    check.main()
