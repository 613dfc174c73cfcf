"""The Open Inference Protocol with 4 MiB of numbers each way, over REST and gRPC, with tritonclient.

MLServer has no binary tensors over REST: there its numbers travel as JSON, which is all that it understands.
"""

from __future__ import annotations

from collections.abc import Iterator

from load.paired import contenders
from load.tritonclient import MLSERVER, NAMES, compare
from measurement import Measurement
from peers.forms import OURS

ROW = "oip_large"
IN_FLIGHT = (1, 2, 4)
TARGET = 3.0


def run() -> Iterator[Measurement]:
    with contenders("tensor", NAMES, with_grpc=True) as servers:
        for what, ours, theirs in (
            ("4 MiB over gRPC", "tritonclient.grpc", "tritonclient.grpc"),
            ("4 MiB over REST", "tritonclient.http, binary", "tritonclient.http"),
        ):
            libraries = {OURS: ours, MLSERVER: theirs}
            yield from compare(ROW, servers, libraries, what=what, in_flight=IN_FLIGHT, target=TARGET)
