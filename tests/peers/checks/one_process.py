"""Our server and another maker's gRPC client in one process: `one_process.py SITE_PACKAGES CLIENT before|after`.

Both have messages of the package `inference`, and protobuf has one place for those that do not keep to themselves. The client is
imported before our server is, or while it serves; then it asks. Prints what it got.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from typing import Any

import numpy as np

DEADLINE = 20.0
ROW = np.arange(4, dtype=np.float64)


def tritonclient() -> Callable[[str], Any]:
    import tritonclient.grpc as library

    def ask(address: str) -> Any:
        with library.InferenceServerClient(address) as client:
            one = library.InferInput("x", [4], "FP64")
            one.set_data_from_numpy(ROW)
            return client.infer("doubled", [one], client_timeout=DEADLINE).as_numpy("y").tolist()

    return ask


def kserve() -> Callable[[str], Any]:
    from kserve import InferenceGRPCClient, InferInput, InferRequest

    async def asked(address: str) -> Any:
        async with InferenceGRPCClient(address, timeout=DEADLINE) as client:
            one = InferInput("x", [4], "FP64")
            one.set_data_from_numpy(ROW)
            return (await client.infer(InferRequest("doubled", [one]))).outputs[0].as_numpy().tolist()

    return lambda address: asyncio.run(asked(address))


def mlserver() -> Callable[[str], Any]:
    import grpc
    from mlserver.grpc import dataplane_pb2, dataplane_pb2_grpc

    def ask(address: str) -> Any:
        with grpc.insecure_channel(address) as channel:
            request = dataplane_pb2.ModelInferRequest(model_name="doubled")
            one = request.inputs.add(name="x", datatype="FP64", shape=[4])
            one.contents.fp64_contents.extend(ROW.tolist())
            stub = dataplane_pb2_grpc.GRPCInferenceServiceStub(channel)
            answer = stub.ModelInfer(request, timeout=DEADLINE)
            return list(answer.outputs[0].contents.fp64_contents)

    return ask


CLIENTS = {"tritonclient": tritonclient, "kserve": kserve, "mlserver": mlserver}


def main(site_packages: str, name: str, when: str) -> None:
    sys.path.append(site_packages)  # what we have ourselves is ours
    ask = CLIENTS[name]() if when == "before" else None
    from socaity_server import SocaityRouter

    router = SocaityRouter()

    @router.add_route("/doubled", idempotent=True)
    def doubled(x: np.ndarray[Any, np.dtype[np.float64]]) -> dict[str, Any]:
        return {"y": x * 2}

    def question() -> None:
        try:
            client = ask or CLIENTS[name]()
            print(client(f"{router.grpc_address}"), flush=True)
        except BaseException:
            traceback.print_exc()
        os.kill(os.getpid(), signal.SIGINT)

    def ready(_url: str) -> None:
        threading.Thread(target=question, daemon=True).start()

    router.start("127.0.0.1", 0, grpc_port=0, log_level="error", on_ready=ready)


if __name__ == "__main__":
    main(*sys.argv[1:])
