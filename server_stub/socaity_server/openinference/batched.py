"""`BatchedModel`: a model or batched function, whose requests go to the batcher without a task or a future."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncGenerator, Mapping
from typing import Any, TypeAlias

import numpy as np

from socaity.exceptions import InvalidInputError, ServerError
from socaity.protocol.openinference.datatypes import DATATYPES, TensorError
from socaity.protocol.openinference.messages import InferRequest, InferResponse

from ..dataplane import DataPlane
from ..direct import Cancellable, DirectRoute, OnDone
from ..loading import LoadedModel
from ..route import Route
from ..runtimes.base import TensorSpec
from .awaiting import awaited
from .content_types import check_content_types
from .counters import document_of
from .model import VERSION, ServedModel, priority_of, timeout_of
from .outputs import ONLY_OUTPUT, answer, as_text
from .signature import Signature, TensorMetadata

__all__ = ["BatchedModel"]

Array: TypeAlias = np.ndarray[Any, Any]

_NUMPY_OF = {"BYTES": np.dtype(object), "BF16": np.dtype(np.float32)}
_MICROSECONDS = 1_000_000


class BatchedModel(ServedModel):
    """Made of a route; its rows are put together with those of all other callers."""

    def __init__(self, dataplane: DataPlane, route: Route, signature: Signature) -> None:
        model = route.model
        super().__init__(
            route.name,
            version=VERSION if model is None or model.version is None else model.version,
            platform="python_function" if model is None else _platform(model),
            signature=signature,
        )
        self.route = route
        self._dataplane = dataplane
        assert route.tensors is not None
        self._may_be_bf16 = any(item.dtype is None for item in route.tensors.inputs.values())

    @classmethod
    def of_route(cls, dataplane: DataPlane, route: Route) -> BatchedModel | None:
        """None: the protocol has no datatype for one of its inputs."""
        assert route.tensors is not None
        stacks = route.tensors.has_batch_axis
        inputs: list[TensorMetadata] = []
        for item in route.tensors.inputs.values():
            shape = item.item_shape
            if shape is not None and stacks:
                shape = (None, *shape)
            metadata = TensorMetadata.of_spec(TensorSpec(item.name, item.dtype, shape))
            if metadata is None:
                return None
            inputs.append(metadata)
        if not inputs:
            return None
        outputs = _outputs_of(route)
        signature = Signature(
            route.name,
            inputs,
            outputs,
            max_batch_size=max(route.max_batch_size, 1) if stacks else 0,
            # a model may give other outputs the next time, where nobody has said which it has
            knows_outputs=bool(route.model is not None and route.model.runtime.outputs),
        )
        return cls(dataplane, route, signature)

    @property
    def is_ready(self) -> bool:
        direct = self._dataplane.direct_routes().get(self.name)
        if direct is None or not self._dataplane.is_ready:
            return False
        return not direct.batcher.is_stuck and (direct.breaker is None or direct.breaker.state != "open")

    def submit(self, request: InferRequest, on_done: OnDone, *, owner: str = "") -> Cancellable:
        direct = self._dataplane.direct(self.route)
        try:
            arrays, rows = self._inputs(request)
            priority, timeout = priority_of(request), timeout_of(request)
        except (TensorError, InvalidInputError):
            direct.statistics.failures["invalid"] += 1
            raise
        signature, version = self.signature, self.version

        def done(outputs: Any, error: BaseException | None) -> None:
            if error is None:
                try:
                    response = answer(request, self._named(outputs), signature, version=version)
                except Exception as exc:  # the edge: whoever waits must get an answer
                    on_done(None, exc)
                else:
                    on_done(response, None)
            else:
                on_done(None, error)

        if not rows:
            return self._run_empty(direct, arrays, done)
        now = time.monotonic()
        if timeout is None:
            limit, max_wait = direct.timeout, direct.patience
        else:
            limit, max_wait = min(timeout, direct.timeout), math.inf
        deadline = math.inf if limit == math.inf else now + limit
        return direct.call_arrays(arrays, rows, done, deadline=deadline, max_wait=max_wait, priority=priority)

    async def stream(self, request: InferRequest, *, owner: str = "") -> AsyncGenerator[InferResponse, None]:
        yield await awaited(lambda done: self.submit(request, done, owner=owner))

    def statistics(self) -> dict[str, Any]:
        direct = self._dataplane.direct_routes().get(self.name)
        assert direct is not None
        return document_of(direct.statistics)

    def config(self) -> dict[str, Any]:
        config = super().config()
        direct = self._dataplane.direct_routes().get(self.name)
        model = self.route.model
        if direct is not None:
            config["instance_group"][0]["count"] = direct.batcher.instance_count
        if model is not None and model.runtime.device != "cpu":
            config["instance_group"][0]["kind"] = "KIND_GPU"
        if not self.signature.has_batch_axis:
            return config
        wait = self.route.max_batch_wait if model is None else model.config.max_batch_wait
        batching: dict[str, Any] = {"max_queue_delay_microseconds": round((wait or 0.0) * _MICROSECONDS)}
        if model is not None and model.config.preferred_batch_sizes:
            batching["preferred_batch_size"] = list(model.config.preferred_batch_sizes)
        if direct is not None:
            policy: dict[str, Any] = {
                "timeout_action": "REJECT",
                "allow_timeout_override": True,
                "max_queue_size": min(direct.batcher.queue_rows, 2**32 - 1),
            }
            if direct.timeout != math.inf:
                policy["default_timeout_microseconds"] = round(direct.timeout * _MICROSECONDS)
            batching["default_queue_policy"] = policy
        return {**config, "dynamic_batching": batching}

    def _inputs(self, request: InferRequest) -> tuple[dict[str, Array], int]:
        """The arrays for the batcher, with a batch axis, and their rows."""
        signature = self.signature
        signature.check_wanted(request.outputs)
        check_content_types(request)
        arrays = signature.arrays(request)
        for name, array in arrays.items():
            if array.dtype.kind == "O":
                arrays[name] = as_text(array)
        if self._may_be_bf16:
            self._narrow(request, arrays)
        if signature.has_batch_axis:
            return arrays, signature.rows(arrays)
        return {name: array[None] for name, array in arrays.items()}, 1

    def _narrow(self, request: InferRequest, arrays: dict[str, Array]) -> None:
        """BF16 as the dtype of that name, where there is one, so that it comes back as BF16."""
        for tensor in request.inputs:
            if tensor.datatype == "BF16" and self.signature.inputs[tensor.name].datatype is None:
                try:
                    import ml_dtypes
                except ImportError:
                    return
                arrays[tensor.name] = arrays[tensor.name].astype(ml_dtypes.bfloat16)

    def _named(self, outputs: Mapping[str, Array]) -> dict[str, Array]:
        """The outputs by the names that clients know, without the batch axis that only we have put on."""
        if not self.signature.has_batch_axis:
            outputs = {name: array[0, ...] for name, array in outputs.items()}  # a text alone is no array
        named = {name or ONLY_OUTPUT: array for name, array in outputs.items()}
        if self.signature.outputs.keys() != named.keys() and not self.signature.knows_outputs:
            self._learn(named)
        return named

    def _learn(self, arrays: Mapping[str, Array]) -> None:
        """Know the outputs from now on, as far as one run shows them."""
        free = 1 if self.signature.has_batch_axis else 0
        found = [
            TensorMetadata.of_spec(
                TensorSpec(
                    name,
                    "object" if array.dtype.kind in "OUS" else array.dtype.name,
                    (*(None,) * free, *(None,) * (array.ndim - free)),
                )
            )
            for name, array in arrays.items()
        ]
        self.signature.outputs = {one.name: one for one in found if one is not None}

    def _run_empty(self, direct: DirectRoute, arrays: dict[str, Array], done: OnDone) -> Cancellable:
        """A batch without rows, which no batcher takes: empty outputs where they are declared, else what the model gives, and
        where it cannot, outputs as it gave them before."""
        declared = self.signature.outputs.values()
        loop = asyncio.get_running_loop()
        known = {
            one.name: _empty(one) for one in declared if one.datatype is not None and one.shape is not None
        }
        are_all = len(known) == len(declared) and all(-1 not in (one.shape or ())[1:] for one in declared)
        is_known = bool(known) and are_all
        if is_known and self.signature.knows_outputs:
            return loop.call_soon(done, known, None)
        function = self.route.function
        run = function if self.route.model is not None else lambda arrays: function(**arrays)

        def ended(future: asyncio.Future[Any]) -> None:
            if future.cancelled():
                return
            error = future.exception()
            if error is not None and is_known:
                done(known, None)
            elif error is not None:
                done(None, TensorError(f"model {self.name!r} takes no batch without rows: {error}"))
            else:
                done(*_checked(self.name, future.result()))

        future = loop.run_in_executor(None, run, arrays)
        future.add_done_callback(ended)
        return future


def _checked(model: str, outputs: Any) -> tuple[dict[str, Array] | None, ServerError | None]:
    """What a batch without rows gave, or what is wrong with that."""
    named = outputs if isinstance(outputs, dict) else {"": outputs}
    arrays = {name: np.asarray(array) for name, array in named.items()}
    for array in arrays.values():
        if array.shape[:1] != (0,):
            text = f"a batch of 0 rows gave a result of shape {list(array.shape)}; it has one row for each row it gets"
            return None, ServerError(f"The model {model!r} gave a wrong answer: {text}.", code="model_error")
    return arrays, None


def _empty(tensor: TensorMetadata) -> Array:
    assert tensor.datatype is not None
    shape = (0, *(max(size, 0) for size in (tensor.shape or ())[1:]))
    return np.empty(shape, _NUMPY_OF.get(tensor.datatype, DATATYPES[tensor.datatype].dtype))


def _outputs_of(route: Route) -> list[TensorMetadata]:
    model = route.model
    if model is None:
        return []
    specs = model.runtime.outputs or model.seen_outputs
    found = [TensorMetadata.of_spec(spec, name=spec.name or ONLY_OUTPUT) for spec in specs]
    return [one for one in found if one is not None]


def _platform(model: LoadedModel) -> str:
    """`<project>_<format>`, as the protocol has it."""
    engine = model.runtime.name.partition(" ")[0].lower()
    suffix = "" if model.path is None else model.path.suffix.lower()
    known = {"onnxruntime": "onnx_onnxv1", "python": "python_class"}
    if engine == "torch":
        return "pytorch_torchscript" if suffix == ".pt" else "pytorch_export"
    return known.get(engine, f"{engine}_{suffix.lstrip('.') or 'model'}")
