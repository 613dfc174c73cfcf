"""LitServe: `server.py MODEL FILE PORT OPTIONS`; `POST /predict` with `{"features": [[…]]}` or `{"text": …}`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(1, str(Path(__file__).resolve().parents[1]))

import litserve
import orjson
from inference import load
from starlette.responses import Response

DEFAULTS = {
    "mlp": {"workers": 1, "servers": 2, "max_batch_size": 64, "batch_timeout": 0.001},
    "forest": {"workers": 1, "servers": 2, "max_batch_size": 64, "batch_timeout": 0.005},
    "minilm": {"workers": 2, "servers": 1, "max_batch_size": 16, "batch_timeout": 0.005, "chunk": 1},
}


class API(litserve.LitAPI):
    def __init__(self, model: str, path: str, engine: dict[str, Any], **options: Any) -> None:
        super().__init__(**options)
        self.model, self.path, self.engine = model, path, engine
        self.key = "text" if model == "minilm" else "features"

    def setup(self, device: str) -> None:
        self.run = load(self.model, self.path, **self.engine)

    def decode_request(self, request):  # an annotation would change how the body is read
        value = request[self.key]
        return value if self.key == "text" else value[0]

    def batch(self, inputs: list[Any]) -> list[Any]:
        return inputs

    def predict(self, inputs: list[Any]) -> list[Any]:
        return self.run(inputs)

    def unbatch(self, outputs: list[Any]) -> list[Any]:
        return outputs

    def encode_response(self, output: Any) -> Response:
        body = orjson.dumps({"predictions": [output]}, option=orjson.OPT_SERIALIZE_NUMPY)
        return Response(body, media_type="application/json")


if __name__ == "__main__":
    model, path, port, options = sys.argv[1:5]
    chosen = DEFAULTS[model] | json.loads(options)
    engine = {key: chosen[key] for key in ("threads", "spinning", "chunk", "quick") if key in chosen}
    api = API(
        model, path, engine, max_batch_size=chosen["max_batch_size"], batch_timeout=chosen["batch_timeout"]
    )
    server = litserve.LitServer(
        api,
        accelerator="cpu",
        workers_per_device=chosen["workers"],
        fast_queue=chosen.get("fast_queue", False),
        timeout=60,
    )
    server.run(
        host="127.0.0.1",
        port=int(port),
        num_api_servers=chosen["servers"],
        log_level="error",
        access_log=False,
        generate_client_file=False,
    )
