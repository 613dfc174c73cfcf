"""Many calls of tritonclient at once: cancelling, a full queue, deadlines, a model that fails."""

from __future__ import annotations

import queue
import threading
import time
from typing import Any

import numpy as np
import tritonclient.grpc as over_grpc
import tritonclient.http as over_http
from checks import DEADLINE, Address, Checks, is_same
from triton_list import inputs, is_right, one_input, refused
from tritonclient.utils import InferenceServerException

check = Checks()
PATIENCE = 10.0


@check("http timeout of the request is kept")
def _(address: Address) -> None:
    with over_http.InferenceServerClient(address.http) as client:
        one = one_input(over_http, "INPUT0", np.array([8], np.float32), "FP32")
        start = time.monotonic()
        refused(lambda: client.infer("slow", [one], timeout=300_000), "504")
        assert time.monotonic() - start < 5, "it came too late"


@check("grpc cancelled call")
def _(address: Address) -> None:
    answers: queue.Queue[tuple[Any, Any]] = queue.Queue()
    with over_grpc.InferenceServerClient(address.grpc) as client:
        is_same(client.is_server_live(client_timeout=DEADLINE), True, "live")
        one = one_input(over_grpc, "INPUT0", np.array([8], np.float32), "FP32")
        call = client.async_infer("slow", [one], lambda result, error: answers.put((result, error)))
        call.cancel()
        _, error = answers.get(timeout=PATIENCE)
        is_same(str(error.status()), "StatusCode.CANCELLED", "the status")
        is_right(client.infer("simple", inputs(over_grpc), client_timeout=DEADLINE))


def begin(client: Any, seconds: float) -> tuple[Any, queue.Queue[tuple[Any, Any]]]:
    """A call of `queue_of_one`, and where its answer will be."""
    answers: queue.Queue[tuple[Any, Any]] = queue.Queue()
    one = one_input(over_grpc, "INPUT0", np.array([seconds], np.float32), "FP32")
    call = client.async_infer("queue_of_one", [one], lambda result, error: answers.put((result, error)))
    return call, answers


def begin_until_let_in(client: Any, seconds: float, until: float) -> Any:
    """The call, which waits or runs; those that were refused are made again."""
    while time.monotonic() < until:
        call, answers = begin(client, seconds)
        try:
            _, error = answers.get(timeout=0.3)
        except queue.Empty:
            return call
        if error is None:
            return call
        is_same(str(error.status()), "StatusCode.UNAVAILABLE", "the status")
    raise AssertionError("the call was not let in")


@check("grpc cancelled call gives its place back")
def _(address: Address) -> None:
    """`queue_of_one` runs one call and lets one wait: were the one that waits not gone, no other would be let in."""
    with over_grpc.InferenceServerClient(address.grpc) as client:
        stop = time.monotonic() + 2.5
        runs = begin_until_let_in(client, 3.0, stop)
        waits = begin_until_let_in(client, 3.0, stop)
        _, answers = begin(client, 0.0)
        _, error = answers.get(timeout=PATIENCE)
        assert error is not None, "the queue was not full"
        is_same(str(error.status()), "StatusCode.UNAVAILABLE", "the status")
        waits.cancel()
        begin_until_let_in(client, 0.0, stop)
        runs.cancel()


def crowd(ask: Any, count: int) -> list[Any]:
    """What so many threads at once get: results or errors."""
    found: list[Any] = []

    def one() -> None:
        try:
            found.append(ask())
        except InferenceServerException as exc:
            found.append(exc)

    threads = [threading.Thread(target=one, daemon=True) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE)
    return found


@check("http full queue is 503")
def _(address: Address) -> None:
    def ask() -> Any:
        with over_http.InferenceServerClient(address.http) as client:
            one = one_input(over_http, "INPUT0", np.array([0.5], np.float32), "FP32")
            return client.infer("queue_of_one", [one])

    found = crowd(ask, 8)
    is_same(len(found), 8, "how many got an answer")
    errors = [one for one in found if isinstance(one, InferenceServerException)]
    is_same({str(one.status()) for one in errors}, {"503"}, "the statuses of those who were refused")
    assert len(errors) < 8, "nobody was served"


@check("grpc full queue is UNAVAILABLE")
def _(address: Address) -> None:
    with over_grpc.InferenceServerClient(address.grpc) as client:
        one = one_input(over_grpc, "INPUT0", np.array([0.5], np.float32), "FP32")
        found = crowd(lambda: client.infer("queue_of_one", [one], client_timeout=DEADLINE), 8)
    is_same(len(found), 8, "how many got an answer")
    errors = [one for one in found if isinstance(one, InferenceServerException)]
    is_same({str(one.status()) for one in errors}, {"StatusCode.UNAVAILABLE"}, "the statuses")
    assert len(errors) < 8, "nobody was served"


@check("model that raises is 500 and INTERNAL")
def _(address: Address) -> None:
    with over_http.InferenceServerClient(address.http) as client:
        one = one_input(over_http, "INPUT0", np.array([1], np.float32), "FP32")
        refused(lambda: client.infer("broken", [one]), "500")
    with over_grpc.InferenceServerClient(address.grpc) as client:
        one = one_input(over_grpc, "INPUT0", np.array([1], np.float32), "FP32")
        refused(lambda: client.infer("broken", [one], client_timeout=DEADLINE), "StatusCode.INTERNAL")


@check("http asynchronous calls from one client")
def _(address: Address) -> None:
    with over_http.InferenceServerClient(address.http, concurrency=4) as client:
        calls = [client.async_infer("simple", inputs(over_http)) for _ in range(16)]
        for call in calls:
            is_right(call.get_result())


@check("grpc asynchronous calls from one client")
def _(address: Address) -> None:
    answers: queue.Queue[tuple[Any, Any]] = queue.Queue()
    with over_grpc.InferenceServerClient(address.grpc) as client:
        for _ in range(64):
            client.async_infer(
                "simple", inputs(over_grpc), lambda result, error: answers.put((result, error))
            )
        for _ in range(64):
            result, error = answers.get(timeout=PATIENCE)
            assert error is None, error
            is_right(result)


if __name__ == "__main__":
    check.main()
