"""Requests per second that a load generator gets for one prediction, against an application that does nothing."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import tempfile
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import digits
from measurement import Measurement, Skipped
from process import server
from rates import median

CONNECTIONS = 64
SECONDS = 3
ROUNDS = 4


def run() -> Iterator[Measurement]:
    if shutil.which("wrk") is None:
        raise Skipped("needs the load generator wrk: apt-get install wrk, or brew install wrk")
    body = json.dumps(digits.request_body())
    name = "http_json"
    with server("service") as service, tempfile.TemporaryDirectory() as folder:
        request = urllib.request.Request(
            service.url + digits.PATH, body.encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=10) as response:
            answer = response.read().decode()
        script = Path(folder) / "post.lua"
        script.write_text(
            f"wrk.method = 'POST'\nwrk.body = '{body}'\nwrk.headers['Content-Type'] = 'application/json'\n"
        )
        with server("bare", answer) as bare:
            ours, bares = [], []
            for _ in range(ROUNDS):
                bares.append(_requests_per_second(bare.url + digits.PATH, script))
                ours.append(_requests_per_second(service.url + digits.PATH, script))
    yield Measurement(name, f"POST {digits.PATH}, {CONNECTIONS} connections", median(ours), "/s")
    yield Measurement(name, "bare ASGI application, same body and answer", median(bares), "/s")
    share = median([100 * mine / its for mine, its in zip(ours, bares, strict=True)])
    yield Measurement(name, "share of the bare application's requests", share, "%", at_least=75)


def _requests_per_second(url: str, script: Path) -> float:
    command = ["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{SECONDS}s", "-s", str(script), url]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, timeout=SECONDS + 30)
    rate = re.search(r"Requests/sec:\s*([\d.]+)", done.stdout)
    if rate is None or "Non-2xx" in done.stdout:
        raise Skipped(f"wrk got errors:\n{done.stdout}")
    return float(rate[1])
