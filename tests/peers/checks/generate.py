"""The generate extension as bytes: one answer as JSON, or a stream of events."""

from __future__ import annotations

import http.client
import json
import threading
import time
from typing import Any

from checks import Address, Checks, is_same
from wire import PATIENCE, Answer, ask, data_of, infer, is_refused

check = Checks()


def generate(address: Address, body: Any, *, stream: bool = False) -> Answer:
    return ask(address, "POST", f"/v2/models/words/generate{'_stream' if stream else ''}", body)


@check("generate: one answer")
def _(address: Address) -> None:
    answer = generate(address, {"PROMPT": "hello", "REPETITION": 1, "id": "an id"})
    is_same(answer.status, 200, f"the status ({answer.body[:300]!r})")
    found = answer.json()
    is_same((found["TEXT"], found["model_name"], found["id"]), ("hello", "words", "an id"), "the answer")
    assert "id" not in generate(address, {"PROMPT": "hello", "REPETITION": 1}).json()


@check("generate: inputs in parameters")
def _(address: Address) -> None:
    answer = generate(address, {"PROMPT": "hello", "parameters": {"REPETITION": 1, "DELAY": 0.0}})
    is_same(answer.status, 200, f"the status ({answer.body[:300]!r})")
    is_same(answer.json()["TEXT"], "hello", "TEXT")


@check("generate: lists, and keys that are no inputs")
def _(address: Address) -> None:
    answer = generate(address, {"PROMPT": ["hello"], "colour": "red", "parameters": {"count": 3}})
    is_same(answer.status, 200, f"the status ({answer.body[:300]!r})")
    is_same(answer.json()["TEXT"], "hello", "TEXT")


@check("generate: none or several answers are an error")
def _(address: Address) -> None:
    text = "generate expects model to produce exactly 1 response"
    is_refused(address, generate(address, {"PROMPT": "hello", "REPETITION": 2}), 400, text)
    is_refused(address, generate(address, {"PROMPT": "hello", "REPETITION": 0}), 400, text)
    answer = generate(address, {"PROMPT": "hello", "REPETITION": 0}, stream=True)
    is_same((answer.status, events(answer.body)), (200, []), "a stream of nothing")


@check("generate_stream: many at once")
def _(address: Address) -> None:
    found: list[Any] = []

    def one() -> None:
        answer = generate(address, {"PROMPT": "hello", "REPETITION": 3, "colour": "red"}, stream=True)
        found.append((answer.status, len(events(answer.body))))

    threads = [threading.Thread(target=one, daemon=True) for _ in range(40)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    is_same(found, [(200, 3)] * 40, "the answers")


@check("generate: wrong inputs")
def _(address: Address) -> None:
    is_refused(address, generate(address, {}), 400)
    is_refused(address, generate(address, {"PROMPT": 5, "REPETITION": 1}), 400, "PROMPT")
    is_refused(address, generate(address, {"PROMPT": "a", "FAIL_LAST": "yes"}), 400, "FAIL_LAST")
    is_refused(address, generate(address, {"PROMPT": "a", "parameters": 1}), 400, "parameters")
    is_refused(address, generate(address, {"PROMPT": "a", "parameters": {"nested": {"a": 1}}}), 400, "nested")
    is_refused(
        address, generate(address, b'{"PROMPT": "a", "PROMPT": "b"}'), 400, "already exists in request"
    )
    is_refused(address, ask(address, "POST", "/v2/models/no_such_model/generate", {"PROMPT": "a"}), 404)


@check("generate: texts of Triton's errors")
def _(address: Address) -> None:
    is_refused(address, generate(address, {"PROMPT": 5}), 400, "attempt to access JSON non-string as string")
    answer = generate(address, {"PROMPT": "a", "FAIL_LAST": "yes"})
    is_refused(address, answer, 400, "attempt to access JSON non-boolean as boolean")
    answer = generate(address, {"PROMPT": "a", "parameters": 1})
    is_refused(address, answer, 400, "Expected JSON object for keyword: 'parameters'")
    answer = generate(address, {"PROMPT": "a", "parameters": {"nested": {"a": 1}}})
    is_refused(address, answer, 400, "parameter 'nested' has invalid type")
    is_refused(
        address,
        generate(address, b'{"PROMPT": "a", "PROMPT": "b"}'),
        400,
        "input 'PROMPT' already exists in request",
    )


def events(body: bytes) -> list[Any]:
    """The documents of a stream of events; raises if anything else is in it."""
    found = []
    for event in body.decode().split("\n\n"):
        if event:
            assert event.startswith("data: "), event
            found.append(json.loads(event[6:]))
    return found


@check("generate_stream: events")
def _(address: Address) -> None:
    answer = generate(address, {"PROMPT": "hello", "REPETITION": 3}, stream=True)
    is_same(answer.status, 200, f"the status ({answer.body[:300]!r})")
    is_same(answer.headers["content-type"], "text/event-stream; charset=utf-8", "the content type")
    is_same([one["TEXT"] for one in events(answer.body)], ["hello"] * 3, "the events")


@check("generate_stream: errors before and after the first answer")
def _(address: Address) -> None:
    is_refused(address, generate(address, {}, stream=True), 400)
    answer = generate(address, {"PROMPT": "a", "REPETITION": 2, "FAIL_LAST": True}, stream=True)
    is_same(answer.status, 200, f"the status ({answer.body[:300]!r})")
    first, last = events(answer.body)
    is_same(first["TEXT"], "a", "the first event")
    is_same(sorted(last), ["error"], "the keys of the last event")
    answer = generate(address, {"PROMPT": "a", "REPETITION": 1, "FAIL_LAST": True}, stream=True)
    is_refused(address, answer, 500)


def running(address: Address) -> int:
    """How many calls of `words` run."""
    one = {"name": "INPUT0", "shape": [1], "datatype": "INT64", "data": [0]}
    return int(data_of(infer(address, "streams", one), "RUNNING")[0])


@check("generate_stream: a client that leaves ends the work")
def _(address: Address) -> None:
    connection = http.client.HTTPConnection(address.host, address.http_port, timeout=PATIENCE)
    body = json.dumps({"PROMPT": "a", "REPETITION": 100_000, "DELAY": 0.01}).encode()
    connection.request("POST", "/v2/models/words/generate_stream", body)
    response = connection.getresponse()
    assert response.read(10), "no event came"
    assert running(address) > 0, "nothing runs"
    response.close()
    connection.close()
    stop = time.monotonic() + PATIENCE
    while running(address):
        assert time.monotonic() < stop, "it still runs"


if __name__ == "__main__":
    check.main()
