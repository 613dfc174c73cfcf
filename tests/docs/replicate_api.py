"""An HTTP server that answers the client `replicate` as the API of that name does, with four made-up models.

It knows predictions only: create (with `Prefer: wait`), get, cancel and stream. One that was made without `Prefer: wait` is
`starting`; each time it is read it is one step further. That makes what a client sees the same in every run.
"""

import contextlib
import itertools
import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

NOW = "2026-01-01T00:00:00.000000Z"


@dataclass
class Prediction:
    """A prediction as the service keeps it."""

    id: str
    model: str
    input: dict[str, Any]
    base_url: str
    status: str = "starting"
    output: Any = None
    error: str | None = None
    logs: str = ""
    steps: int = 0
    is_streamed: bool = False
    metrics: dict[str, float] = field(default_factory=dict)

    @property
    def is_terminal(self) -> bool:
        return self.status in {"succeeded", "failed", "canceled"}

    def advance(self) -> None:
        """One step further."""
        if self.is_terminal:
            return
        self.status = "processing"
        total = int(self.input.get("epochs", 1))
        self.steps += 1
        self.logs += f" {100 * self.steps // total}%|{'#' * self.steps}| {self.steps}/{total}\n"
        if self.steps >= total:
            self._end()

    def document(self) -> dict[str, Any]:
        """What the API says of it."""
        here = f"{self.base_url}/v1/predictions/{self.id}"
        urls = {"get": here, "cancel": f"{here}/cancel"}
        if self.is_streamed:
            urls["stream"] = f"{here}/stream"
        return {
            "id": self.id,
            "model": self.model,
            "version": "hidden",
            "status": self.status,
            "input": self.input,
            "output": self.output,
            "error": self.error,
            "logs": self.logs,
            "metrics": {"predict_time": 0.1} if self.status == "succeeded" else {},
            "created_at": NOW,
            "started_at": None if self.status == "starting" else NOW,
            "completed_at": NOW if self.is_terminal else None,
            "urls": urls,
        }

    def _end(self) -> None:
        try:
            self.output = MODELS[self.model](self.input)
            self.status = "succeeded"
        except ValueError as error:
            self.error, self.status = str(error), "failed"


def shout(arguments: dict[str, Any]) -> str:
    return " ".join([str(arguments["text"]).upper()] * int(arguments.get("times", 1)))


def write(arguments: dict[str, Any]) -> list[str]:
    return [str(arguments["prompt"]), " upon", " a", " time"]


def train(arguments: dict[str, Any]) -> dict[str, float]:
    return {"loss": 1 / int(arguments["epochs"])}


def fail(arguments: dict[str, Any]) -> None:
    raise ValueError(arguments["text"])


MODELS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "acme/shout": shout,
    "acme/write": write,
    "acme/train": train,
    "acme/fail": fail,
}


class Handler(BaseHTTPRequestHandler):
    """One request."""

    predictions: dict[str, Prediction]
    numbers: Iterator[int]

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = self.path.strip("/").split("/")
        match parts:
            case ["v1", "models", owner, name, "predictions"] if f"{owner}/{name}" in MODELS:
                self._create(f"{owner}/{name}", json.loads(body))
            case ["v1", "predictions", prediction, "cancel"] if prediction in self.predictions:
                found = self.predictions[prediction]
                if not found.is_terminal:
                    found.status = "canceled"
                self._answer(200, found.document())
            case _:
                self._answer(404, {"title": "Not found", "detail": self.path, "status": 404})

    def do_GET(self) -> None:
        parts = self.path.strip("/").split("/")
        match parts:
            case ["v1", "predictions", prediction] if prediction in self.predictions:
                found = self.predictions[prediction]
                found.advance()
                self._answer(200, found.document())
            case ["v1", "predictions", prediction, "stream"] if prediction in self.predictions:
                self._stream(self.predictions[prediction])
            case _:
                self._answer(404, {"title": "Not found", "detail": self.path, "status": 404})

    def _create(self, model: str, body: dict[str, Any]) -> None:
        if self.headers.get("Authorization") != "Bearer r8_example":
            self._answer(401, {"title": "Unauthenticated", "detail": "no valid token", "status": 401})
            return
        host = f"http://{self.headers['Host']}"
        prediction = Prediction(f"prediction{next(self.numbers)}", model, body["input"], host)
        prediction.is_streamed = model == "acme/write"
        self.predictions[prediction.id] = prediction
        while "wait" in self.headers.get("Prefer", "") and not prediction.is_terminal:
            prediction.advance()
        self._answer(201, prediction.document())

    def _stream(self, prediction: Prediction) -> None:
        prediction.advance()
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        for number, chunk in enumerate(prediction.output):
            self.wfile.write(f"event: output\nid: {number}\ndata: {chunk}\n\n".encode())
        self.wfile.write(b"event: done\nid: end\ndata: {}\n\n")

    def _answer(self, status: int, document: dict[str, Any]) -> None:
        body = json.dumps(document).encode()
        self.send_response(status)
        kind = "application/json" if status < 400 else "application/problem+json"
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *arguments: Any) -> None:
        """Say nothing."""


@contextlib.contextmanager
def replicate_api() -> Iterator[str]:
    """Serves it on a thread; gives its address."""

    class Own(Handler):
        predictions: dict[str, Prediction] = {}  # noqa: RUF012 – of this server
        numbers = itertools.count(1)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Own)
    thread = threading.Thread(target=server.serve_forever, name="replicate double")
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
