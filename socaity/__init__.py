"""Call any AI model anywhere as if it were a local function.

    service = socaity.connect("http://127.0.0.1:8000")
    job = service.predict("a cat", steps=4)   # a Job, at once
    job.result()                              # or `await job`, or iterate a stream

Importing this module starts no thread, opens nothing and loads no HTTP library; names are loaded when they are used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ._connect import connect
    from ._endpoint import Endpoint
    from ._group import JobGroup
    from ._job import Job, JobReference
    from ._pipeline import as_completed, gather
    from ._pipeline_function import PipelineFunction, pipeline
    from ._progress import Progress
    from ._remote import RemoteFunction, remote
    from ._retry import RetryPolicy
    from ._service import Service
    from ._timeline import Timeline
    from .exceptions import (
        APIError,
        AuthenticationError,
        ConfigurationError,
        ConnectError,
        InvalidInputError,
        JobCancelled,
        JobError,
        JobFailed,
        JobLost,
        NotFoundError,
        ProtocolError,
        RateLimitError,
        ServerError,
        SocaityError,
        TransportError,
        TransportTimeout,
    )
    from .protocol.audio import Audio
    from .protocol.events import JobStatus
    from .protocol.media import Media
    from .transport import Transport

__version__ = "0.1.0"

__all__ = [
    "APIError",
    "Audio",
    "AuthenticationError",
    "ConfigurationError",
    "ConnectError",
    "Endpoint",
    "InvalidInputError",
    "Job",
    "JobCancelled",
    "JobError",
    "JobFailed",
    "JobGroup",
    "JobLost",
    "JobReference",
    "JobStatus",
    "Media",
    "NotFoundError",
    "PipelineFunction",
    "Progress",
    "ProtocolError",
    "RateLimitError",
    "RemoteFunction",
    "RetryPolicy",
    "ServerError",
    "Service",
    "SocaityError",
    "Timeline",
    "Transport",
    "TransportError",
    "TransportTimeout",
    "as_completed",
    "connect",
    "gather",
    "pipeline",
    "remote",
]

_HOMES = {
    "Audio": "protocol.audio",
    "Media": "protocol.media",
    "Timeline": "_timeline",
    "Endpoint": "_endpoint",
    "Job": "_job",
    "JobGroup": "_group",
    "JobReference": "_job",
    "JobStatus": "protocol.events",
    "PipelineFunction": "_pipeline_function",
    "Progress": "_progress",
    "RemoteFunction": "_remote",
    "RetryPolicy": "_retry",
    "Service": "_service",
    "Transport": "transport",
    "as_completed": "_pipeline",
    "connect": "_connect",
    "gather": "_pipeline",
    "pipeline": "_pipeline_function",
    "remote": "_remote",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f".{_HOMES.get(name, 'exceptions')}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
