"""One service, two wires: a model and a generator called by the Open Inference Protocol, as any client of Triton or KServe does.

The server asks for a key, over HTTP and over gRPC.
"""

import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np

import socaity
from socaity.exceptions import AuthenticationError
from socaity_server import Auth, SocaityRouter

KEY = "a key that nobody guesses"
MODELS = Path(__file__).parent / "models"

router = SocaityRouter(auth=Auth(api_keys={"example": KEY}))
router.add_model(MODELS / "digits.onnx")


@router.add_route("/spell")
def spell(text: str) -> Iterator[str]:
    """A generator is a decoupled model: one request, many answers."""
    yield from text


ready = threading.Event()
server = router.server(port=0, grpc_port=0, on_ready=lambda url: (urls.append(url), ready.set()))
urls: list[str] = []
thread = threading.Thread(target=server.run)
thread.start()
try:
    ready.wait(30)
    held_out = np.load(MODELS / "digits_held_out.npz")
    pixels, labels = held_out["x"].astype(np.float32), held_out["y"]
    grpc = f"oip+grpc://{router.grpc_address}"
    for url in (urls[0].replace("http", "oip+http"), grpc):
        with socaity.connect(url, api_key=KEY, progress=False) as service:
            wire = url.partition(":")[0]
            print(f"{wire}: {service.digits.__signature__}")
            answer = service.digits(pixels).result(timeout=30)  # all rows in one request
            right = np.mean(answer.argmax(axis=1) == labels)
            print(f"{wire}: {answer.dtype} {answer.shape}, {right:.0%} are right")
            print(f"{wire}: {' '.join(service.spell('cat'))}")
    try:
        with socaity.connect(grpc, progress=False) as service:
            service.digits(pixels).result(timeout=30)
    except AuthenticationError as refusal:
        print(f"without a key: {refusal.status} {refusal.code}")
finally:
    server.should_exit = True
    thread.join()
