"""Models as classes: `ModelHandler` with `infer`, `model_metadata`, `model_load` and `model_ready`, over typed requests."""

from __future__ import annotations

from .codecs import InputCodec, RequestCodec, register_input_codec, register_request_codec
from .model_handler import DefaultModelHandler, ModelHandler
from .types import (
    Datatype,
    InferenceRequest,
    InferenceResponse,
    MetadataTensor,
    ModelMetadataResponse,
    ModelReadyResponse,
    Parameters,
    RequestInput,
    RequestOutput,
    ResponseOutput,
    ServerLiveResponse,
    ServerMetadataResponse,
    ServerReadyResponse,
    TensorData,
)

__all__ = [
    "Datatype",
    "DefaultModelHandler",
    "InferenceRequest",
    "InferenceResponse",
    "InputCodec",
    "MetadataTensor",
    "ModelHandler",
    "ModelMetadataResponse",
    "ModelReadyResponse",
    "Parameters",
    "RequestCodec",
    "RequestInput",
    "RequestOutput",
    "ResponseOutput",
    "ServerLiveResponse",
    "ServerMetadataResponse",
    "ServerReadyResponse",
    "TensorData",
    "register_input_codec",
    "register_request_codec",
]
