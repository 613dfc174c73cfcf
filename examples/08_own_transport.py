"""A transport of your own: to a service that speaks JSON in lines over TCP, of which socaity knows nothing.

The service is `lines_service.py`, which says what the wire looks like. It stands for one that somebody else has written.
"""

import asyncio
import base64
import json
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Any, Self
from urllib.parse import urlsplit

import socaity
from socaity import exceptions
from socaity.protocol.description import EndpointDescription, ParameterDescription, ServiceDescription
from socaity.protocol.events import JobEvent
from socaity.transport import Call, Target

LONGEST_LINE = 2**24


class LinesTransport(socaity.Transport):
    """`lines://host:port`. It neither retries nor limits: that is done around it."""

    def __init__(self, target: Target) -> None:
        self._place = urlsplit(target.url)
        self._timeout = target.timeout
        self._submits: dict[str, asyncio.Future[Any]] = {}

    @classmethod
    def open(cls, target: Target) -> Self:
        return cls(target)

    async def describe(self) -> ServiceDescription:
        answer = await self._ask(do="describe")
        return ServiceDescription(
            title=self._place.netloc,
            protocol=None,
            endpoints=[
                EndpointDescription(
                    name=name,
                    path=f"/{name}",
                    doc=about["doc"],
                    streaming=about["streams"],
                    parameters=[ParameterDescription(**parameter) for parameter in about["parameters"]],
                )
                for name, about in answer["functions"].items()
            ],
        )

    async def submit(self, call: Call) -> None:
        # The same id with every try: the service runs the job once, however often it is asked.
        request = {"job": call.id, "function": call.endpoint.name, "arguments": call.arguments}
        self._submits[call.id] = asyncio.ensure_future(self._ask(do="submit", **request))
        try:
            await self._submits[call.id]
        finally:
            del self._submits[call.id]

    async def watch(self, job_id: str, *, after: int = 0) -> AsyncIterator[JobEvent]:
        try:
            async with aclosing(self._lines(do="watch", job=job_id, after=after)) as lines:
                async for number, kind, data in lines:
                    if kind == "failed":
                        text, name = f"{data['type']}: {data['message']}", data["type"]
                        raise exceptions.JobFailed(text, error_type=name, remote_traceback=data["traceback"])
                    if kind == "cancelled":
                        raise exceptions.JobCancelled("the service has stopped the job", job_id=job_id)
                    yield JobEvent(number, kind, data)
                    if kind == "result":
                        return
        except (exceptions.ConnectError, exceptions.ProtocolError):
            raise
        except exceptions.TransportError as exc:
            # It was accepted, and may have run to its end: nobody here knows. `service.job(id)` asks again.
            raise exceptions.JobLost(f"{exc}, while the job was running", job_id=job_id) from exc

    async def cancel(self, job_id: str) -> None:
        if job_id in self._submits:  # a connection of its own could overtake it
            await asyncio.wait([self._submits[job_id]])
        await self._ask(do="cancel", job=job_id)

    async def aclose(self) -> None:
        await self._cancel_tasks()

    async def _ask(self, **request: Any) -> Any:
        """The one line that answers a request."""
        try:
            async with asyncio.timeout(self._timeout), aclosing(self._lines(**request)) as lines:
                return await anext(lines)
        except TimeoutError as exc:
            late = f"{self._place.netloc} did not answer for {self._timeout:g} seconds"
            raise exceptions.TransportTimeout(late) from exc

    async def _lines(self, **request: Any) -> AsyncGenerator[Any, None]:
        """What the service answers, line by line; whatever goes wrong is an error of `socaity.exceptions`."""
        host, port = self._place.hostname, self._place.port
        sent = json.dumps(request, default=plain).encode() + b"\n"
        try:
            async with asyncio.timeout(self._timeout):
                reader, writer = await asyncio.open_connection(host, port, limit=LONGEST_LINE)
        except (OSError, TimeoutError) as exc:  # ConnectError promises that nothing was sent
            raise exceptions.ConnectError(f"nobody answers at {self._place.netloc}: {exc}") from exc
        try:
            writer.write(sent)
            while (line := await reader.readline()).endswith(b"\n"):
                answer = json.loads(line)
                if "refused" in answer:
                    raise refusal(answer)
                yield answer
            raise exceptions.TransportError(f"{self._place.netloc} has closed the connection")
        except OSError as exc:
            raise exceptions.TransportError(f"the connection to {self._place.netloc} broke: {exc}") from exc
        except ValueError as exc:
            raise exceptions.ProtocolError(f"{self._place.netloc} does not speak JSON lines: {exc}") from exc
        finally:
            writer.close()


def plain(value: Any) -> Any:
    """What JSON has no word for: bytes as base64, arrays as lists."""
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if hasattr(value, "tolist"):
        return value.tolist()
    raise exceptions.InvalidInputError(f"a {type(value).__name__} cannot be sent as JSON")


def refusal(answer: dict[str, Any]) -> exceptions.APIError:
    """The words of this service as the errors that every program with socaity knows."""
    message = answer["message"]
    match answer["refused"]:
        case "unknown":
            return exceptions.NotFoundError(message)
        case "wrong":
            return exceptions.InvalidInputError(message)
        case "busy":  # with this status it is tried again, after `retry_after` seconds at least
            return exceptions.ServerError(message, status=503, code="queue_full", retry_after=answer["wait"])
        case other:
            return exceptions.ServerError(message, code=other)


# -- what it is good for -----------------------------------------------------------------------------------------------


async def main() -> None:
    from lines_service import Job, LinesServer

    async def shout(job: Job, text: str, times: int = 1) -> str:
        """Louder, and again."""
        for time in range(times):
            job.tell("progress", {"fraction": (time + 1) / times, "message": f"{text} {time + 1}"})
        return " ".join([text.upper()] * times)

    async def count(job: Job, start: int) -> None:
        """Down to one."""
        for number in range(start, 0, -1):
            job.tell("chunk", number)
            await asyncio.sleep(0.001)

    async def divide(job: Job, a: float, b: float) -> float:
        return a / b

    server = LinesServer(shout, count, divide, streams="count")
    async with server, connected(server) as service:
        print(service.shout.__signature__)
        job = service.shout("hey", times=2)
        print(await job, job.progress)
        print([number async for number in service.count(3)])

        endless = service.count(10**9)
        print(await anext(aiter(endless)), endless.status)
        await asyncio.to_thread(endless.cancel)
        await say_why(endless)
        await say_why(service.divide(1, 0))
        await say_why(service.job("f" * 32))

        cut_off = service.count(10**9)
        await anext(aiter(cut_off))
        await server.aclose()
        await say_why(cut_off)
        await say_why(service.shout("is anybody there"))


def connected(server: Any) -> socaity.Service:
    # With the entry point of docs/transports.md the scheme is enough: socaity.connect("lines://127.0.0.1:8000")
    return socaity.connect(server.url, transport=LinesTransport, retry=1, progress=False)


async def say_why(job: socaity.Job[Any]) -> None:
    try:
        await job
    except exceptions.SocaityError as exc:
        print(f"{type(exc).__name__}: {str(exc).splitlines()[0]}")


if __name__ == "__main__":
    asyncio.run(main())
