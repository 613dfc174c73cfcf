"""Mosec: `server.py MODEL FILE PORT OPTIONS`; `POST /inference` with `{"features": [[…]]}` or `{"text": …}`."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

sys.path.insert(1, str(Path(__file__).resolve().parents[1]))

import orjson
from inference import load
from mosec import Server, Worker

DEFAULTS = {
    "mlp": {"num": 2, "max_batch_size": 32, "max_wait_time": 1},
    "forest": {"num": 1, "max_batch_size": 64, "max_wait_time": 1},
    "minilm": {"num": 2, "max_batch_size": 16, "max_wait_time": 1, "chunk": 1},
}


class Model(Worker):
    """One process: reads the JSON, runs the batch and writes the JSON."""

    def __init__(self) -> None:
        super().__init__()
        model, path, engine = json.loads(os.environ["BENCHMARK"])
        self.key = "text" if model == "minilm" else "features"
        self.predict = load(model, path, **engine)

    def deserialize(self, data: bytes) -> Any:
        value = orjson.loads(data)[self.key]
        return value if self.key == "text" else value[0]

    def serialize(self, data: Any) -> bytes:
        return orjson.dumps({"predictions": [data]}, option=orjson.OPT_SERIALIZE_NUMPY)

    def forward(self, data: Any) -> Any:
        return self.predict(data) if self.max_batch_size > 1 else self.predict([data])[0]


if __name__ == "__main__":
    model, path, port, options = sys.argv[1:5]
    chosen = DEFAULTS[model] | json.loads(options)
    engine = {key: chosen.pop(key) for key in ("threads", "spinning", "chunk", "quick") if key in chosen}
    os.environ["BENCHMARK"] = json.dumps([model, path, engine])
    sys.argv[1:] = ["--port", port, "--address", "127.0.0.1", "--log-level", "error", "--timeout", "60000"]
    server = Server()
    server.append_worker(Model, **chosen)
    server.run()
