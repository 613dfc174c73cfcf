"""A model as a runtime of MLServer. A batch of it is one request whose inputs are stacked."""

from __future__ import annotations

import numpy as np
from inference import load
from mlserver import MLModel
from mlserver.types import InferenceRequest, InferenceResponse, ResponseOutput

_FORMS = {"mlp": ("FP32", [10]), "forest": ("INT64", []), "minilm": ("FP32", [384]), "tensor": ("FP32", [-1])}


class Model(MLModel):
    async def load(self) -> bool:
        extra = self.settings.parameters.extra
        self.kind = extra["model"]
        self.run = load(self.kind, self.settings.parameters.uri, **extra["engine"])
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        tensor = payload.inputs[0]
        data = tensor.data.root if hasattr(tensor.data, "root") else tensor.data
        if self.kind == "minilm":
            rows = [one.decode() if isinstance(one, bytes) else one for one in data]
        else:
            rows = np.array(data, np.float32).reshape(tensor.shape)
        answers = self.run(rows)
        datatype, shape = _FORMS[self.kind]
        if shape == [-1]:
            shape = [len(answers[0])]
        flat = np.concatenate(answers).tolist() if shape else answers
        output = ResponseOutput(name="y", shape=[len(answers), *shape], datatype=datatype, data=flat)
        return InferenceResponse(model_name=self.name, outputs=[output])
