"""The service under test: the digit model, an echo and timed jobs, exactly as a router serves them.

With `--count` the requests are counted; `GET /requests` says how many there were.
"""

from __future__ import annotations

import asyncio
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from socaity_server import SocaityRouter

MODEL = Path(__file__).resolve().parents[2] / "examples" / "models" / "digits.onnx"

router = SocaityRouter(title="benchmarks", max_body=2**29)
router.add_model(MODEL, max_batch_size=256)


@router.add_route("/echo")
def echo(array: np.ndarray) -> np.ndarray:  # type: ignore[type-arg]
    return array


@router.add_route("/finish_at", queue_size=20_000, concurrency=20_000)
async def finish_at(moment: float) -> float:
    """Ends at a moment of the clock that all processes share, and says when that was."""
    await asyncio.sleep(moment - time.monotonic())
    return time.monotonic()


class CountingApp:
    """Counts HTTP requests and WebSocket connections on their way to the router."""

    def __init__(self, app: Any) -> None:
        self.app = app
        self.requests = 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http" and scope["path"] == "/requests":
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": str(self.requests).encode()})
            return
        if scope["type"] != "lifespan":
            self.requests += 1
        await self.app(scope, receive, send)


if __name__ == "__main__":
    if "--count" in sys.argv:
        router.app = CountingApp(router.app)
    router.start(port=0, log_level="warning", on_ready=lambda url: print(url, flush=True))
