"""MLServer: `server.py MODEL FILE PORT OPTIONS`; the Open Inference Protocol, as JSON and over gRPC (port + 1)."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent

DEFAULTS = {
    "mlp": {"workers": 0, "max_batch_size": 64, "max_batch_time": 0.001},
    "forest": {"workers": 2, "max_batch_size": 64, "max_batch_time": 0.02},
    "minilm": {"workers": 2, "max_batch_size": 16, "max_batch_time": 0.005, "chunk": 1},
    # putting tensors of 4 MiB together, or handing them to a worker, costs it more than they gain
    "tensor": {"workers": 0, "max_batch_size": 0, "max_batch_time": 0},
}

if __name__ == "__main__":
    model, path, port, options = sys.argv[1:5]
    chosen = DEFAULTS[model] | json.loads(options)
    engine = {key: chosen[key] for key in ("threads", "spinning", "chunk", "quick") if key in chosen}
    folder = Path(tempfile.mkdtemp(prefix="mlserver_"))
    settings = {
        "debug": False,
        "host": "127.0.0.1",
        "http_port": int(port),
        "grpc_port": int(port) + 1,
        "grpc_max_message_length": 2**26,
        "metrics_endpoint": None,
        "gzip_enabled": False,
        "parallel_workers": chosen["workers"],
        "logging_settings": {"version": 1, "disable_existing_loggers": True},
    }
    (folder / "settings.json").write_text(json.dumps(settings))
    described = {
        "name": "digits",
        "implementation": "runtime.Model",
        "max_batch_size": chosen["max_batch_size"],
        "max_batch_time": chosen["max_batch_time"],
        "parameters": {"uri": path, "extra": {"model": model, "engine": engine}},
    }
    (folder / "model-settings.json").write_text(json.dumps(described))
    os.environ["PYTHONPATH"] = f"{HERE}:{HERE.parent}"
    os.chdir(folder)
    os.execv(sys.executable, [sys.executable, "-m", "mlserver.cli.main", "start", str(folder)])
