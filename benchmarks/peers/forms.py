"""How each server wants its requests, and where the answer stands in what it says."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

OURS = "socaity"
PEERS = ("mosec", "litserve", "mlserver", "bentoml")
EVERYONE = (OURS, *PEERS)


@dataclass(frozen=True)
class Form:
    """Where to, one input (a row or a text) as a JSON document, and the answer out of one."""

    path: str
    request: Callable[[Any], dict[str, Any]]
    answer: Callable[[Any], Any]


def form(server: str, endpoint: str) -> Form:
    """`endpoint` is the name of the model with us; the peers have one model each, at a fixed place."""
    if server == OURS:
        return Form(f"/predict/{endpoint}", _plain, _our_answer)
    return _FORMS[server]


def _plain(one: Any) -> dict[str, Any]:
    return {"text": one} if isinstance(one, str) else {"features": [one]}


def _our_answer(document: Any) -> Any:
    return document["predictions"][0] if isinstance(document, dict) else document


def _open_inference(one: Any) -> dict[str, Any]:
    if isinstance(one, str):
        return {"inputs": [{"name": "text", "shape": [1], "datatype": "BYTES", "data": [one]}]}
    return {"inputs": [{"name": "x", "shape": [1, len(one)], "datatype": "FP32", "data": one}]}


_FORMS = {
    "mosec": Form("/inference", _plain, lambda document: document["predictions"][0]),
    "litserve": Form("/predict", _plain, lambda document: document["predictions"][0]),
    "mlserver": Form(
        "/v2/models/digits/infer", _open_inference, lambda document: document["outputs"][0]["data"]
    ),
    "bentoml": Form("/predict", lambda one: {"features": [one]}, lambda document: document[0]),
}
