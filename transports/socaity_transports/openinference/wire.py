"""`Wire`: what the protocol offers, whether REST or gRPC carries it."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Awaitable, Mapping
from typing import Any, TypeVar

from socaity.exceptions import SocaityError, TransportTimeout
from socaity.protocol.openinference.messages import InferRequest, InferResponse

from .models import Model

__all__ = ["CALL_TIMEOUT", "MAX_ANSWER", "Wire"]

T = TypeVar("T")

CALL_TIMEOUT = 3600.0
"""Seconds for one call that has no timeout of its own."""
MAX_ANSWER = 2**31 - 1
"""Bytes of the largest answer that is read; gRPC knows no larger one."""


class Wire(ABC):
    """One server. Documents have the form that REST gives them. Everything raises TransportError and APIError."""

    place: str
    """The address without credentials, for messages."""

    @abstractmethod
    async def server(self) -> Mapping[str, Any]:
        """`name`, `version` and `extensions` of the server."""

    @abstractmethod
    async def is_live(self) -> bool:
        """Whether the server answers at all."""

    @abstractmethod
    async def is_ready(self, model: str = "", version: str = "") -> bool:
        """Whether the server, or one of its models, takes requests."""

    @abstractmethod
    async def models(self) -> list[str]:
        """The names of the models that are ready, each once. Raises NotFoundError where the server has no list."""

    @abstractmethod
    async def metadata(self, model: str, version: str = "") -> Mapping[str, Any]:
        """What a model says of its inputs and outputs."""

    @abstractmethod
    async def config(self, model: str, version: str = "") -> Mapping[str, Any]:
        """The configuration of a model (extension `model_configuration`)."""

    @abstractmethod
    async def statistics(self, model: str = "", version: str = "") -> Mapping[str, Any]:
        """How often a model, or each of them, was used (extension `statistics`)."""

    @abstractmethod
    async def index(self, *, ready: bool = False) -> list[Mapping[str, Any]]:
        """The models of the repository; with `ready` only those that take requests (extension `model_repository`)."""

    @abstractmethod
    async def load(self, model: str, parameters: Mapping[str, Any]) -> None:
        """Load a model, or load it anew; returns when that is done."""

    @abstractmethod
    async def unload(self, model: str, *, unload_dependents: bool = False) -> None:
        """Stop serving a model."""

    @abstractmethod
    async def infer(self, request: InferRequest, *, timeout: float) -> InferResponse:
        """One request, one answer."""

    @abstractmethod
    def stream(
        self, request: InferRequest, model: Model, *, timeout: float
    ) -> AsyncGenerator[InferResponse, None]:
        """One request, any number of answers."""

    def is_final(self, error: SocaityError) -> bool:
        """Whether the server said of a request that failed that it must not be sent again."""
        return False

    @abstractmethod
    async def aclose(self) -> None:
        """Close the connections."""

    async def within(self, stop: float, answer: Awaitable[T]) -> T:
        """The answer, if it comes before the time `stop` of the loop. Raises TransportTimeout."""
        try:
            async with asyncio.timeout_at(stop):
                return await answer
        except TimeoutError as exc:
            if isinstance(exc, SocaityError):
                raise
            raise TransportTimeout(f"{self.place} did not answer in time") from exc
