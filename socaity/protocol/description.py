"""What a service says of itself: its endpoints, their parameters and how they may be called (pydantic, on the wire)."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

PROTOCOL = "socaity.v1"
"""The subprotocol of the socket and the version of the description."""


class TensorDescription(BaseModel):
    """An array. `shape` is that of one item, without the batch axis, where the endpoint is batched; None: unknown."""

    model_config = ConfigDict(extra="ignore")

    dtype: str | None = None
    shape: list[int | None] | None = None


class ParameterDescription(BaseModel):
    """One parameter. `json_schema` is a JSON schema (empty: anything); `tensor` is set for arrays.

    `location` says where a foreign HTTP service wants it.
    """

    model_config = ConfigDict(extra="ignore")

    name: str
    required: bool = True
    default: Any = None
    json_schema: dict[str, Any] = Field(default_factory=dict)
    tensor: TensorDescription | None = None
    description: str | None = None
    variadic: bool = False
    location: Literal["body", "path", "query", "header", "cookie", "form", "file"] = "body"


class EndpointDescription(BaseModel):
    """One remote function.

    `direct`: batched, called without a job in the back-end. `batched`: the first axis of every tensor is the batch.
    `idempotent`: may be sent again when it is unknown whether it ran.
    """

    model_config = ConfigDict(extra="ignore")

    name: str
    path: str
    method: str = "POST"
    doc: str | None = None
    parameters: list[ParameterDescription] = Field(default_factory=list)
    returns: dict[str, Any] = Field(default_factory=dict)
    streaming: bool = False
    batched: bool = False
    direct: bool = False
    idempotent: bool = False
    queue_size: int | None = None
    content_type: str | None = None


class ServiceDescription(BaseModel):
    """A service and all that can be called on it; `instance` changes when the server is started again."""

    model_config = ConfigDict(extra="ignore")

    title: str = "socaity"
    version: str = ""
    protocol: str | None = PROTOCOL
    instance: str = ""
    socket: str | None = "/ws"
    max_body: int | None = None
    endpoints: list[EndpointDescription] = Field(default_factory=list)
