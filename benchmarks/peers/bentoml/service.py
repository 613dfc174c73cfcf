"""A model as a service of BentoML; what to serve stands in the environment (see `server.py`)."""

from __future__ import annotations

import json
import os

import bentoml
from inference import load

MODEL, PATH, OPTIONS = json.loads(os.environ["BENCHMARK"])
ENGINE = {key: OPTIONS[key] for key in ("threads", "spinning", "chunk", "quick") if key in OPTIONS}
ITEM = {"mlp": list[float], "forest": list[float], "minilm": str}[MODEL]
ANSWER = {"mlp": list[float], "forest": int, "minilm": list[float]}[MODEL]


@bentoml.service(
    workers=OPTIONS["workers"],
    traffic={"timeout": 60},
    metrics={"enabled": False},
    logging={"access": {"enabled": False}},
)
class Digits:
    def __init__(self) -> None:
        self.run = load(MODEL, PATH, **ENGINE)

    @bentoml.api(
        batchable=True,
        max_batch_size=OPTIONS["max_batch_size"],
        max_latency_ms=OPTIONS["max_latency_ms"],
    )
    def predict(self, features: list[ITEM]) -> list[ANSWER]:
        answers = self.run(features)
        return answers if MODEL == "forest" else [one.tolist() for one in answers]
