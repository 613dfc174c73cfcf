"""`GRPCServer`: the gRPC side of a service, on the event loop of the rest of it."""

from __future__ import annotations

from pathlib import Path

import grpc

from socaity.exceptions import ConfigurationError

from ...address import check_address
from ...dataplane import DataPlane
from ...listing import available_models
from ...openinference.service import OpenInference
from ...settings import GRPCSettings
from ...tls import TLSFiles
from ..limits import Limits
from ..openinference.grpc import InferenceGRPC
from .calls import GRPCCalls
from .health import HealthService
from .reflection import ReflectionService

__all__ = ["GRPCServer"]

_HEALTH = "grpc.health.v1.Health"
_HEALTHY = ("healthy", "degraded")
_FRAMING = 64 * 1024
"""What a message may have beside the bytes of its tensors."""
_MAX_METADATA = 32 * 1024
_KEEPALIVE_MS = 120_000
_KEEPALIVE_TIMEOUT_MS = 20_000
_SHORTEST_PING_MS = 10_000


class GRPCServer:
    """Open Inference, health and reflection at `settings.host` and `settings.port`. Belongs to the loop that makes it.

    Connections are encrypted where there are files for TLS.
    """

    def __init__(
        self,
        dataplane: DataPlane,
        service: OpenInference,
        settings: GRPCSettings,
        *,
        tls: TLSFiles | None = None,
        limits: Limits | None = None,
    ) -> None:
        self._settings = settings
        self._tls = tls
        self._server = grpc.aio.server(
            options=_options(settings),
            compression=_COMPRESSIONS[settings.compression],
        )
        calls = GRPCCalls(
            dataplane, max_message=settings.max_message, max_calls=settings.max_calls, limits=limits
        )
        inference = InferenceGRPC(calls, service)
        # the whole is as healthy as HTTP says it is: one model that fails takes no others out of a load balancer
        self._health = HealthService(
            calls,
            {
                "": lambda: available_models(dataplane)["status"] in _HEALTHY,
                inference.name: lambda: service.is_ready,
            },
        )
        reflection = ReflectionService(calls, {inference.name: inference.pool, _HEALTH: self._health.pool})
        self._server.add_generic_rpc_handlers(
            (inference.handler(), self._health.handler(), *reflection.handlers())
        )
        self.port = self._bind()

    @property
    def address(self) -> str:
        """Host and port, with the one that the system chose for port 0."""
        host = self._settings.host
        return f"[{host}]:{self.port}" if ":" in host else f"{host}:{self.port}"

    @property
    def url(self) -> str:
        """The address as `socaity.connect` takes it."""
        return f"oip+{'grpc' if self._tls is None else 'grpcs'}://{self.address}"

    async def start(self) -> None:
        """Answer."""
        await self._server.start()

    def retire(self) -> None:
        """Say that nobody shall call any more. Calls are answered as before."""
        self._health.end()

    async def stop(self, grace: float) -> None:
        """Take no more calls, and cut off after `grace` seconds what still runs."""
        self.retire()
        await self._server.stop(grace)

    def _bind(self) -> int:
        settings = self._settings
        host = f"[{settings.host}]" if ":" in settings.host else settings.host
        place = f"{host}:{settings.port}"
        check_address(settings.host, settings.port, option="--grpc-port, or GRPC_PORT")
        try:
            if self._tls is None:
                port: int = self._server.add_insecure_port(place)
            else:
                port = self._server.add_secure_port(place, _credentials(self._tls))
        except RuntimeError as exc:  # somebody was quicker
            raise ConfigurationError(
                f"Cannot serve gRPC at {place}; take another port (--grpc-port, or GRPC_PORT; 0: any free one)."
            ) from exc
        return port


_COMPRESSIONS = {
    "none": None,
    "gzip": grpc.Compression.Gzip,
    "deflate": grpc.Compression.Deflate,
}


def _options(settings: GRPCSettings) -> list[tuple[str, int]]:
    limit = -1 if settings.max_message is None else settings.max_message + _FRAMING
    return [
        # a port that somebody has is an error, and not shared with them
        ("grpc.so_reuseport", 0),
        ("grpc.max_receive_message_length", limit),
        ("grpc.max_send_message_length", -1),
        ("grpc.max_concurrent_streams", settings.max_streams),
        ("grpc.max_metadata_size", _MAX_METADATA),
        ("grpc.absolute_max_metadata_size", 2 * _MAX_METADATA),
        # finds clients that have gone without a word, whose calls hold places
        ("grpc.keepalive_time_ms", _KEEPALIVE_MS),
        ("grpc.keepalive_timeout_ms", _KEEPALIVE_TIMEOUT_MS),
        # clients may ask as well, also between calls, but not all the time
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.min_recv_ping_interval_without_data_ms", _SHORTEST_PING_MS),
    ]


def _credentials(tls: TLSFiles) -> grpc.ServerCredentials:
    try:
        pair = (Path(tls.key).read_bytes(), Path(tls.certificate).read_bytes())
    except OSError as exc:
        raise ConfigurationError(
            f"The file {exc.filename!r} for TLS cannot be read: {exc.strerror}."
        ) from exc
    return grpc.ssl_server_credentials([pair])
