"""Our server with what the programs of the peers ask for, in a process of its own."""

from __future__ import annotations

import re
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.e2e.servers import ServerProcess

from .certificate import write_certificate
from .checks import tokens
from .models import write_models
from .programs import Program, Way

HERE = Path(__file__).parent
_AUTH = {
    "AUTH_ENABLED": "true",
    "AUTH_SECRET": tokens.SECRET,
    "AUTH_AUDIENCE": tokens.AUDIENCE,
    "AUTH_ISSUER": tokens.ISSUER,
}


class OurServer:
    """`socaity serve service:router` with HTTP and gRPC; `folder` is empty, and keeps the models.

    `way`: open to everybody; with the tokens that `checks/tokens.py` makes; or over TLS.
    """

    host = "127.0.0.1"

    def __init__(self, folder: Path, way: Way = "open") -> None:
        write_models(folder / "models")
        self._certificate: Path | None = None
        arguments = ["--grpc-port", "0"]
        if way == "TLS":
            self._certificate, key = write_certificate(folder / "certificate")
            arguments += ["--tls-cert", str(self._certificate), "--tls-key", str(key)]
        self._process = ServerProcess(
            "service:router",
            *arguments,
            env={
                "PEER_MODELS": str(folder / "models"),
                "PYTHONPATH": str(HERE),
                "SOCAITY_CACHE": str(folder / "cache"),
                **(_AUTH if way == "tokens" else {}),
            },
        )

    @property
    def http_port(self) -> int:
        return self._process.port

    @property
    def grpc_port(self) -> int:
        said = re.search(r"gRPC at \S+:(\d+)", self._process.said)
        assert said is not None, self._process.said
        return int(said[1])

    def run(self, program: Program, only: str = "") -> dict[str, bool | str]:
        """What each check of the program found here."""
        env = {} if self._certificate is None else {"PEER_CERTIFICATE": str(self._certificate)}
        return program.run(self.host, self.http_port, self.grpc_port, only, env=env)

    @property
    def pid(self) -> int:
        return self._process.pid

    def __enter__(self) -> Self:
        self._process.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
