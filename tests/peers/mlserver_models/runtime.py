"""The models that MLServer serves in the tests: sum and difference, identities, words one at a time, one that takes its time.

Runs in the environment of MLServer: it imports nothing of ours.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from mlserver import MLModel
from mlserver.codecs import NumpyCodec, StringCodec
from mlserver.types import InferenceRequest, InferenceResponse, ResponseOutput


class Simple(MLModel):
    """OUTPUT0 is the sum of INPUT0 and INPUT1, OUTPUT1 their difference."""

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        arrays = {one.name: NumpyCodec.decode_input(one) for one in payload.inputs}
        first, second = arrays["INPUT0"], arrays["INPUT1"]
        results = {"OUTPUT0": first + second, "OUTPUT1": first - second}
        wanted = [one.name for one in payload.outputs or ()] or list(results)
        outputs = [NumpyCodec.encode_output(name, results[name]) for name in wanted]
        return InferenceResponse(model_name=self.name, model_version=self.version, outputs=outputs)


class Identity(MLModel):
    """OUTPUT0 is INPUT0, whatever its datatype and shape."""

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        one = payload.inputs[0]
        output = ResponseOutput(name="OUTPUT0", shape=one.shape, datatype=one.datatype, data=one.data)
        return InferenceResponse(model_name=self.name, model_version=self.version, outputs=[output])


class Words(MLModel):
    """PROMPT, one answer for each of its words; as a single answer: all of it."""

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        return self._answer(_prompt(payload))

    async def predict_stream(
        self, payloads: AsyncIterator[InferenceRequest]
    ) -> AsyncIterator[InferenceResponse]:
        async for payload in payloads:
            for word in _prompt(payload).split():
                yield self._answer(word)

    def _answer(self, text: str) -> InferenceResponse:
        output = StringCodec.encode_output("TEXT", [text])
        return InferenceResponse(model_name=self.name, model_version=self.version, outputs=[output])


class Slow(MLModel):
    """OUTPUT0 is INPUT0, after as many seconds as its first number says."""

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        one = payload.inputs[0]
        await asyncio.sleep(float(NumpyCodec.decode_input(one).ravel()[0]))
        output = ResponseOutput(name="OUTPUT0", shape=one.shape, datatype=one.datatype, data=one.data)
        return InferenceResponse(model_name=self.name, model_version=self.version, outputs=[output])


def _prompt(payload: InferenceRequest) -> str:
    one = next(one for one in payload.inputs if one.name == "PROMPT")
    return " ".join(StringCodec.decode_input(one))
