"""`ModelHandler`: what somebody writes who serves models of their own by the Open Inference Protocol."""

from __future__ import annotations

from abc import ABC, abstractmethod

from .types import InferenceRequest, InferenceResponse, ModelMetadataResponse, ModelReadyResponse

__all__ = ["DefaultModelHandler", "ModelHandler"]


class ModelHandler(ABC):
    """Serves one or more models, which `SocaityRouter.add_handler` names.

    `infer` runs on a thread, several at once; it may also be `async`, but none of the others may. These are called when the
    model is loaded and must be quick. What raises NotImplementedError is answered with 501, and UNIMPLEMENTED over gRPC.
    """

    @abstractmethod
    def infer(
        self, payload: InferenceRequest, model_name: str, model_version: str | None = None
    ) -> InferenceResponse:
        """The answer to a request, which has been checked against the metadata; so is the answer."""

    @abstractmethod
    def model_metadata(self, model_name: str, model_version: str | None = None) -> ModelMetadataResponse:
        """What the model takes and gives."""

    @abstractmethod
    def model_load(self, model_name: str) -> bool:
        """Load the model, when the service starts to serve it and when a client asks for a load; False: it cannot be loaded."""

    def model_ready(self, model_name: str, model_version: str | None = None) -> ModelReadyResponse:
        """Whether the model is ready. Called on the event loop."""
        return ModelReadyResponse(name=model_name, ready=True)


class DefaultModelHandler(ModelHandler):
    """Has nothing: every inference is answered with 501. Subclass it to write only a part."""

    def infer(
        self, payload: InferenceRequest, model_name: str, model_version: str | None = None
    ) -> InferenceResponse:
        raise NotImplementedError(f"The model {model_name!r} has no `infer`.")

    def model_metadata(self, model_name: str, model_version: str | None = None) -> ModelMetadataResponse:
        raise NotImplementedError(f"The model {model_name!r} has no `model_metadata`.")

    def model_load(self, model_name: str) -> bool:
        raise NotImplementedError(f"The model {model_name!r} has no `model_load`.")
