"""What tritonclient asks about a server: metadata, versions, readiness, repository, statistics."""

from __future__ import annotations

import asyncio

import numpy as np
import tritonclient.grpc as over_grpc
import tritonclient.http as over_http
import tritonclient.http.aio as over_http_aio
from checks import DEADLINE, Address, Checks, is_same, raised, raised_later
from triton_list import inputs, is_right, one_input, refused
from tritonclient.utils import InferenceServerException

check = Checks()
PATIENCE = 10.0


@check("http metadata, versions and readiness")
def _(address: Address) -> None:
    with over_http.InferenceServerClient(address.http) as client:
        is_same((client.is_server_live(), client.is_server_ready()), (True, True), "live and ready")
        server = client.get_server_metadata()
        for extension in ("binary_tensor_data", "model_repository", "statistics", "model_configuration"):
            assert extension in server["extensions"], f"{extension} is not among {server['extensions']}"
        model = client.get_model_metadata("simple")
        is_same(model["name"], "simple", "the name")
        tensors = [(one["name"], one["datatype"], one["shape"]) for one in model["inputs"]]
        is_same(sorted(tensors), [(name, "INT32", [-1, 16]) for name in ("INPUT0", "INPUT1")], "the inputs")
        is_same(sorted(one["name"] for one in model["outputs"]), ["OUTPUT0", "OUTPUT1"], "the outputs")
        is_same(client.is_model_ready("simple"), True, "whether simple is ready")
        is_same(client.is_model_ready("no_such_model"), False, "whether an unknown model is ready")
        for version in model.get("versions", []):
            is_same(client.is_model_ready("simple", version), True, f"whether its version {version} is ready")
            is_right(client.infer("simple", inputs(over_http), model_version=version))
        refused(lambda: client.infer("simple", inputs(over_http), model_version="12345"), "404")
        is_same(client.is_model_ready("simple", "12345"), False, "whether an unknown version is ready")


@check("grpc metadata, versions and readiness")
def _(address: Address) -> None:
    with over_grpc.InferenceServerClient(address.grpc) as client:
        server = client.get_server_metadata(as_json=True, client_timeout=DEADLINE)
        assert server["name"], "the server has no name"
        model = client.get_model_metadata("simple", as_json=True, client_timeout=DEADLINE)
        tensors = [(one["name"], one["datatype"], one["shape"]) for one in model["inputs"]]
        is_same(
            sorted(tensors), [(name, "INT32", ["-1", "16"]) for name in ("INPUT0", "INPUT1")], "the inputs"
        )
        for version in model.get("versions", []):
            is_same(
                client.is_model_ready("simple", version, client_timeout=DEADLINE), True, f"version {version}"
            )
            is_right(
                client.infer("simple", inputs(over_grpc), model_version=version, client_timeout=DEADLINE)
            )
        refused(
            lambda: client.infer("simple", inputs(over_grpc), model_version="12345", client_timeout=DEADLINE),
            "StatusCode.NOT_FOUND",
        )
        refused(
            lambda: client.get_model_metadata("no_such_model", client_timeout=DEADLINE),
            "StatusCode.NOT_FOUND",
        )


@check("http.aio everything that is read")
def _(address: Address) -> None:
    async def ask() -> None:
        async with over_http_aio.InferenceServerClient(address.http) as client:
            is_same(
                (await client.is_server_live(), await client.is_server_ready()),
                (True, True),
                "live and ready",
            )
            is_same(await client.is_model_ready("simple"), True, "whether simple is ready")
            is_same((await client.get_model_metadata("simple"))["name"], "simple", "the name")
            is_same(
                (await client.get_model_config("simple"))["name"], "simple", "the name in the configuration"
            )
            assert await client.get_server_metadata()
            assert await client.get_model_repository_index()
            assert (await client.get_inference_statistics())["model_stats"]
            unknown = client.get_model_metadata("no_such_model")
            error = await raised_later(InferenceServerException, unknown)
            is_same(str(error.status()), "404", "the status")
            assert "decoding the response" not in error.message(), error.message()

    asyncio.run(ask())


@check("http repository: unload and load")
def _(address: Address) -> None:
    with over_http.InferenceServerClient(address.http) as client:
        one = one_input(over_http, "INPUT0", np.array([1], np.float32), "FP32")
        client.unload_model("comes_and_goes")
        is_same(client.is_model_ready("comes_and_goes"), False, "whether it is ready")
        error = raised(InferenceServerException, lambda: client.infer("comes_and_goes", [one]))
        assert str(error.status()) in {"404", "503"}, error
        client.load_model("comes_and_goes")
        is_same(client.is_model_ready("comes_and_goes"), True, "whether it is ready")
        is_same(client.infer("comes_and_goes", [one]).as_numpy("OUTPUT0").tolist(), [1.0], "OUTPUT0")
        states = {it["name"]: it["state"] for it in client.get_model_repository_index()}
        is_same(states["comes_and_goes"], "READY", "the state")


@check("grpc repository: unload and load")
def _(address: Address) -> None:
    with over_grpc.InferenceServerClient(address.grpc) as client:
        client.unload_model("goes_and_comes", client_timeout=DEADLINE)
        is_same(
            client.is_model_ready("goes_and_comes", client_timeout=DEADLINE), False, "whether it is ready"
        )
        client.load_model("goes_and_comes", client_timeout=DEADLINE)
        is_same(client.is_model_ready("goes_and_comes", client_timeout=DEADLINE), True, "whether it is ready")


@check("repository: load of an unknown model is refused")
def _(address: Address) -> None:
    with over_http.InferenceServerClient(address.http) as client:
        refused(lambda: client.load_model("no_such_model"), "404")
    with over_grpc.InferenceServerClient(address.grpc) as client:
        refused(lambda: client.load_model("no_such_model", client_timeout=DEADLINE), "StatusCode.NOT_FOUND")


@check("http statistics of all models")
def _(address: Address) -> None:
    with over_http.InferenceServerClient(address.http) as client:
        names = [one["name"] for one in client.get_inference_statistics()["model_stats"]]
        assert {"simple", "slow"} <= set(names), names
        refused(lambda: client.get_inference_statistics("no_such_model"), "404")
        refused(lambda: client.get_model_config("no_such_model"), "404")


@check("statistics count failures")
def _(address: Address) -> None:
    with over_http.InferenceServerClient(address.http) as client:

        def failures() -> int:
            return int(
                client.get_inference_statistics("broken")["model_stats"][0]["inference_stats"]["fail"][
                    "count"
                ]
            )

        before = failures()
        one = one_input(over_http, "INPUT0", np.array([1], np.float32), "FP32")
        refused(lambda: client.infer("broken", [one]), "500")
        is_same(failures() - before, 1, "how much fail.count grew")


if __name__ == "__main__":
    check.main()
