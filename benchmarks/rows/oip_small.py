"""The Open Inference Protocol with one row of the digit network a request, over gRPC and REST, with tritonclient.

One process with tritonclient is as busy as the server that it asks; with messages made beforehand more of the server is seen.
"""

from __future__ import annotations

from collections.abc import Iterator

from load.paired import contenders
from load.tritonclient import MLSERVER, NAMES, compare
from measurement import Measurement
from peers.forms import OURS

ROW = "oip_small"
IN_FLIGHT = (8, 32, 128)
TARGET = 2.0


def run() -> Iterator[Measurement]:
    with contenders("mlp", NAMES, with_grpc=True) as servers:
        for what, ours, theirs in (
            ("64 numbers over gRPC", "tritonclient.grpc", "tritonclient.grpc"),
            ("64 numbers over gRPC", "grpc, bytes", "grpc, bytes"),
            ("64 numbers over REST", "tritonclient.http, binary", "tritonclient.http"),
        ):
            libraries = {OURS: ours, MLSERVER: theirs}
            yield from compare(ROW, servers, libraries, what=what, in_flight=IN_FLIGHT, target=TARGET)
