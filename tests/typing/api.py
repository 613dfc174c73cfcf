"""Every public name, as users write it. Never run: mypy --strict and pyright --strict read it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Self, assert_type

import socaity
from socaity import (
    APIError,
    Audio,
    AuthenticationError,
    ConfigurationError,
    ConnectError,
    Endpoint,
    InvalidInputError,
    Job,
    JobCancelled,
    JobError,
    JobFailed,
    JobGroup,
    JobLost,
    JobReference,
    JobStatus,
    Media,
    NotFoundError,
    PipelineFunction,
    Progress,
    ProtocolError,
    RateLimitError,
    RemoteFunction,
    RetryPolicy,
    ServerError,
    Service,
    SocaityError,
    Timeline,
    Transport,
    TransportError,
    TransportTimeout,
    as_completed,
    connect,
    gather,
    pipeline,
    remote,
)
from socaity.protocol.description import EndpointDescription, ServiceDescription
from socaity.protocol.events import JobEvent
from socaity.testing import ScriptedTransport, TransportContract, number_events
from socaity.transport import Call, CallOptions, Target, open_transport
from socaity_server import Auth, Runtime, RuntimeOptions, SocaityRouter, TensorSpec, add_runtime


class MyTransport(Transport):
    @classmethod
    def open(cls, target: Target) -> Self:
        assert_type(target.all_headers(), dict[str, str])
        return cls()

    async def describe(self) -> ServiceDescription:
        return ServiceDescription()

    async def submit(self, call: Call) -> None:
        assert_type(call.arguments, Mapping[str, Any])
        assert_type(call.options, CallOptions | None)
        assert_type(call.time_left, float | None)
        call.accept()

    async def watch(self, job_id: str, *, after: int = 0) -> AsyncIterator[JobEvent]:
        yield JobEvent(1, "result", None)

    async def cancel(self, job_id: str) -> None: ...

    async def aclose(self) -> None: ...


def connecting(app: object) -> None:
    service = connect("http://127.0.0.1:8000")
    assert_type(service, Service)
    connect("wss://host", transport="websocket", api_key="key", headers={"a": "b"}, timeout=3, progress=False)
    connect(app, retry=3)
    connect("my://host", transport=MyTransport, retry=RetryPolicy(attempts=2, base_delay=0.5))
    connect("my://host", transport=MyTransport.open(Target("my://host")))
    connect("my://host", transport=lambda target: MyTransport())
    assert_type(open_transport(Target("http://host"), name="http"), Transport)
    with connect("http://host") as opened:
        assert_type(opened, Service)
    assert_type(service.predict, Endpoint)
    assert_type(service["predict"], Endpoint)
    assert_type(service.endpoints, Mapping[str, Endpoint])
    assert_type(service.predict.with_options(timeout=1.0, priority=1), Endpoint)
    assert_type(service.predict.with_options(explain=True, memoize=True), Endpoint)
    assert_type(service.refresh(), Service)
    assert_type(service.job("id"), Job[Any])
    service.close()


async def connecting_in_async() -> None:
    assert_type(await connect("http://host"), Service)
    async with connect("http://host") as service:
        assert_type(service, Service)
        await service.aclose()


def calling(service: Service) -> None:
    job = service.predict("a cat", steps=4)
    assert_type(job, Job[Any])
    assert_type(service.predict.submit("a cat"), Job[Any])
    assert_type(job.id, str)
    assert_type(job.status, JobStatus)
    assert_type(job.status.is_terminal, bool)
    assert_type(job.progress, Progress)
    assert_type(job.progress.fraction, float | None)
    assert_type(job.progress.message, str | None)
    assert_type(job.queue_position, int | None)
    assert_type(job.eta, float | None)
    assert_type(job.logs, list[str])
    assert_type(job.done(), bool)
    assert_type(job.cancel(), bool)
    assert_type(job.cancel(upstream=False), bool)
    assert_type(job.retry(), Job[Any])
    assert_type(job.upstream, tuple[Job[Any], ...])
    assert_type(job.timing, Mapping[str, float] | None)
    assert_type(job.exception(timeout=1), SocaityError | None)
    assert_type(job["images"][0], JobReference)
    job.add_done_callback(lambda done: done.result())
    job.add_progress_callback(lambda told: told.progress.fraction)
    for chunk in service.write("Once"):
        assert_type(chunk, Any)


def groups(service: Service, typed: list[Job[str]]) -> None:
    assert_type(gather(service.a(), service.b()), JobGroup[Any])
    assert_type(gather(*typed), JobGroup[str])
    assert_type(gather(*typed).result(timeout=1), list[str])
    assert_type(service.predict.map(["a", "b"], concurrency=4, steps=2), JobGroup[Any])
    assert_type(gather(*typed).jobs, tuple[Job[str], ...])
    for value in gather(*typed):
        assert_type(value, str)
    for job in as_completed(typed):
        assert_type(job, Job[str])
    assert_type(gather(*typed).retry(), JobGroup[str])
    assert_type(gather(*typed).members(), Iterator[Job[str]])
    assert_type(gather(gather(*typed), typed[0]), JobGroup[str])
    for job in as_completed(gather(*typed)):
        assert_type(job, Job[str])


def as_numbers(group: JobGroup[int]) -> JobGroup[float]:
    return group


async def waiting(typed: Job[str], group: JobGroup[str]) -> None:
    assert_type(await typed, str)
    assert_type(await group, list[str])
    async for value in group:
        assert_type(value, str)
    async for job in as_completed([typed]):
        assert_type(job, Job[str])
    async for chunk in typed:
        assert_type(chunk, Any)


@remote("http://127.0.0.1:8000")
def predict(text: str, steps: int = 4) -> str:
    raise NotImplementedError


@remote("http://127.0.0.1:8000", endpoint="write", api_key="key")
def tell(prompt: str) -> Iterator[str]:
    raise NotImplementedError


def typed_functions(texts: Iterable[str]) -> None:
    assert_type(predict("a cat", steps=3), Job[str])
    assert_type(predict("a cat").result(timeout=3), str)
    assert_type(predict.map(texts), JobGroup[str])
    assert_type(predict.endpoint, Endpoint)
    assert_type(tell("Once"), Job[Iterator[str]])
    predict(5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    predict("a", step=5)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]


@pipeline
def caption(prompt: str, steps: int = 4) -> Job[str]:
    return predict(prompt, steps)


@pipeline
def count(prompt: str) -> int:
    return len(predict(prompt).result())


@pipeline
def many(prompts: list[str]) -> JobGroup[str]:
    return predict.map(prompts)


@pipeline
async def later(prompt: str) -> str:
    return await predict(prompt)


def pipelines(texts: Iterable[str]) -> None:
    assert_type(caption("a cat", steps=3), Job[str])
    assert_type(caption("a cat").result(timeout=3), str)
    assert_type(caption.map(texts), JobGroup[str])
    assert_type(count("a cat"), Job[int])
    assert_type(many(["a cat"]), Job[list[str]])
    assert_type(later("a cat"), Job[str])
    caption(5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def a_pipeline(function: PipelineFunction[[str], int]) -> None:
    assert_type(function("a"), Job[int])


def a_remote_function(function: RemoteFunction[[str], int]) -> None:
    assert_type(function("a"), Job[int])
    assert_type(function.with_options(timeout=1.0, priority=1)("a"), Job[int])
    function.with_options(memoize=True)(5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def errors(job: Job[str]) -> None:
    try:
        job.result()
    except JobFailed as error:
        assert_type(error.error_type, str | None)
        assert_type(error.remote_traceback, str | None)
    except (JobCancelled, JobLost) as error:
        assert_type(error.job_id, str | None)
        assert_type(error.logs, tuple[str, ...])
    except JobError as error:
        assert_type(error.code, str)
    except RateLimitError as error:
        assert_type(error.retry_after, float | None)
    except InvalidInputError as error:
        assert_type(error.parameter, str | None)
    except (AuthenticationError, NotFoundError, ServerError) as error:
        assert_type(error.status, int)
    except APIError as error:
        assert_type(error.request_id, str | None)
    except (ConnectError, TransportTimeout, ProtocolError, TransportError) as error:
        assert_type(str(error), str)
    except (ConfigurationError, SocaityError) as error:
        assert_type(error.args, tuple[Any, ...])


def media(job: Job[Any], samples: list[float]) -> None:
    assert_type(job.timeline(), Timeline)
    assert_type(job.save("a.png"), Path | list[Path])
    assert_type(Audio(samples, 16000).sample_rate, int)
    assert_type(Media("image/png", b"").suffix, str)


def testing() -> None:
    endpoint = EndpointDescription(name="ask", path="/ask")
    transport = ScriptedTransport(endpoint, lambda call: number_events(("result", call.id)))
    transport.refuse(ServerError("full", status=503), times=2)
    transport.lose_connection()
    assert_type(transport.calls, list[tuple[str, Mapping[str, Any]]])
    assert_type(socaity.connect("memory://x", transport=transport), Service)


class TestMine(TransportContract):
    def connect(self, service_url: Any, *, retry: RetryPolicy | int = 1) -> Service:
        return connect(service_url, transport=MyTransport, retry=retry)


assert_type(socaity.__version__, str)


class OwnRuntime(Runtime):
    suffixes = (".own",)

    def __init__(self, path: Path, options: RuntimeOptions) -> None:
        self.name = f"own, {options.threads} threads"
        self.inputs = (TensorSpec("x", "float32", (None, 3)),)
        self.outputs = ()
        self.batched = True

    def run(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        return dict(inputs)


def guarded() -> None:
    auth = Auth(api_keys={"program": "key"}, secret="secret", algorithms=["HS256"], pdp_url="http://pdp")
    assert_type(auth.accepted, tuple[str, ...])
    assert_type(SocaityRouter(auth=auth, cors_origins=["http://a"]), SocaityRouter)
    assert_type(SocaityRouter(auth=False).start(tls_cert="a.pem", tls_key=Path("b.pem")), bool)


def own_runtimes() -> None:
    assert_type(add_runtime("own", OwnRuntime), None)
