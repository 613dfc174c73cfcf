"""16 MB there and back over the socket, against lists in JSON; and how many copies both sides hold at the peak.

Copies: the highest resident memory during the first such call, over that before it, in payloads. The caller's own array
exists before and does not count; the result does. At the server the argument counts, which is also the result.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
from measurement import Measurement
from process import give_back_memory, need_linux, peak_rss, reset_peak, rss, server
from rates import median

import socaity

BYTES = 16_000_000
ROUNDS = 3


def run() -> Iterator[Measurement]:
    need_linux()
    array = np.random.default_rng(0).random(BYTES // 4, dtype=np.float32)
    name = "large_array"
    with server("service") as one, socaity.connect(one.url, progress=False) as service:
        echo = service["echo"]
        echo(array[:1000]).result(60)
        give_back_memory()
        reset_peak()
        reset_peak(one.pid)
        before, server_before = rss(), rss(one.pid)
        result = echo(array).result(60)
        client_copies = (peak_rss() - before) / BYTES
        server_copies = (peak_rss(one.pid) - server_before) / BYTES
        assert np.array_equal(result, array)
        del result
        ours, jsons = [], []
        with httpx.Client(timeout=120) as client:
            for _ in range(ROUNDS):
                start = time.perf_counter()
                echo(array).result(60)
                ours.append(time.perf_counter() - start)
                start = time.perf_counter()
                _echo_json(client, one.url, array)
                jsons.append(time.perf_counter() - start)
    yield Measurement(name, "16 MB of float32 there and back, socket", median(ours) * 1e3, "ms")
    yield Measurement(name, "the same as lists in JSON, httpx, same route", median(jsons) * 1e3, "ms")
    ratios = [its / mine for mine, its in zip(ours, jsons, strict=True)]
    yield Measurement(name, "times faster", median(ratios), "×", at_least=30)
    yield Measurement(name, "copies at the peak, client", client_copies, "×", at_most=3)
    yield Measurement(name, "copies at the peak, server", server_copies, "×", at_most=3)


def _echo_json(client: httpx.Client, url: str, array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    response = client.post(url + "/echo", json={"array": array.tolist()})
    response.raise_for_status()
    return np.asarray(response.json(), np.float32)
