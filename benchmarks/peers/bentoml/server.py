"""BentoML: `server.py MODEL FILE PORT OPTIONS`; `POST /predict` with `{"features": [[…]]}` or `{"features": ["…"]}`."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent

DEFAULTS = {
    "mlp": {"workers": 2, "max_batch_size": 64, "max_latency_ms": 60000},
    "forest": {"workers": 2, "max_batch_size": 32, "max_latency_ms": 60000},
    "minilm": {"workers": 2, "max_batch_size": 16, "max_latency_ms": 60000, "chunk": 1},
}

if __name__ == "__main__":
    model, path, port, options = sys.argv[1:5]
    chosen = DEFAULTS[model] | json.loads(options)
    home = tempfile.mkdtemp(prefix="bentoml_")
    os.environ |= {
        "BENCHMARK": json.dumps([model, path, chosen]),
        "BENTOML_HOME": home,
        "BENTOML_DO_NOT_TRACK": "True",
        "PYTHONPATH": str(HERE.parent),
    }
    command = ["serve", "service:Digits", "--port", port, "--host", "127.0.0.1", "--working-dir", str(HERE)]
    os.execv(sys.executable, [sys.executable, "-m", "bentoml", *command])
