"""A service that speaks JSON in lines over TCP; `08_own_transport.py` is the way to it. It knows nothing of socaity.

A connection carries one request, an object in a line, and the lines that answer it:

    {"do": "describe"}                                           {"functions": {…}}
    {"do": "submit", "job": ID, "function": …, "arguments": …}   {"job": ID}
    {"do": "watch", "job": ID, "after": NUMBER}                  [NUMBER, KIND, DATA] for each event, until the job ends
    {"do": "cancel", "job": ID}                                  {"job": ID}
    a request that is refused                                    {"refused": REASON, "message": …, "wait": SECONDS}
"""

import asyncio
import inspect
import json
import traceback
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any, Self

LONGEST_LINE = 2**24
BACKLOG = 1000
TYPES = {bool: "boolean", float: "number", int: "integer", str: "string"}


class Refused(Exception):
    """What a request is answered with instead: `unknown`, `wrong` or `busy`, and a sentence."""

    def __init__(self, reason: str, message: str, wait: float = 0.0) -> None:
        self.answer = {"refused": reason, "message": message, "wait": wait}


class Job:
    """What has happened to a job. Its function gets it first, and tells of `log`, `progress` and `chunk`."""

    def __init__(self) -> None:
        self.events: list[tuple[int, str, Any]] = []
        self.has_ended = False
        self.task: asyncio.Task[None]
        self._changed = asyncio.Event()

    def tell(self, kind: str, data: Any) -> None:
        self.events.append((len(self.events) + 1, kind, data))
        self._changed.set()
        self._changed = asyncio.Event()

    async def run(self, function: Callable[..., Any], arguments: dict[str, Any]) -> None:
        self.tell("status", {"status": "running", "queue_position": None})
        try:
            ending, data = "result", await function(self, **arguments)
        except asyncio.CancelledError:
            ending, data = "cancelled", None
        except Exception as exc:
            where = traceback.format_exc()
            ending, data = "failed", {"type": type(exc).__name__, "message": str(exc), "traceback": where}
        self.has_ended = True
        self.tell(ending, data)

    async def follow(self, after: int) -> AsyncIterator[tuple[int, str, Any]]:
        while True:
            changed, ended = self._changed, self.has_ended
            while after < len(self.events):
                yield self.events[after]
                after += 1
            if ended:
                return
            await changed.wait()


class LinesServer:
    """Coroutine functions as a service on a free port of this machine, in `async with`.

    `streams` names those that tell chunks; of those in `most` no more jobs than that are taken at once.
    """

    def __init__(
        self, *functions: Callable[..., Any], streams: str = "", most: Mapping[str, int] | None = None
    ) -> None:
        self.functions = {function.__name__: function for function in functions}
        self.streams = streams.split()
        self.most = dict(most or {})
        self.jobs: dict[str, Job] = {}
        self.running: dict[str, set[Job]] = {name: set() for name in self.functions}

    async def __aenter__(self) -> Self:
        self._connections: set[asyncio.StreamWriter] = set()
        self._server = await asyncio.start_server(
            self._answer, "127.0.0.1", 0, limit=LONGEST_LINE, backlog=BACKLOG
        )
        host, port = self._server.sockets[0].getsockname()
        self.url = f"lines://{host}:{port}"
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Hang up, on everybody; running jobs are not waited for."""
        self._server.close()
        for writer in self._connections:
            writer.transport.abort()
        tasks = [job.task for job in self.jobs.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._connections.add(writer)
        try:
            async for answer in self._understood(await reader.readline()):
                writer.write(json.dumps(answer).encode() + b"\n")
                await writer.drain()
        except Refused as exc:
            writer.write(json.dumps(exc.answer).encode() + b"\n")
        except ConnectionError:
            pass  # whoever asked has gone
        finally:
            self._connections.discard(writer)
            writer.close()

    def _understood(self, line: bytes) -> AsyncIterator[Any]:
        try:
            request = json.loads(line)
            answers: AsyncIterator[Any] = getattr(self, f"do_{request.pop('do')}")(**request)
        except (AttributeError, KeyError, TypeError, ValueError) as exc:
            raise Refused("wrong", f"no request: {line[:80]!r}") from exc
        return answers

    async def do_describe(self) -> AsyncIterator[Any]:
        functions = {}
        for name, function in self.functions.items():
            _, *parameters = inspect.signature(function).parameters.values()
            functions[name] = {
                "doc": inspect.getdoc(function),
                "streams": name in self.streams,
                "parameters": [
                    {
                        "name": one.name,
                        "required": one.default is one.empty,
                        "default": None if one.default is one.empty else one.default,
                        "json_schema": {"type": TYPES[one.annotation]} if one.annotation in TYPES else {},
                    }
                    for one in parameters
                ],
            }
        yield {"functions": functions}

    async def do_submit(self, job: str, function: str, arguments: dict[str, Any]) -> AsyncIterator[Any]:
        if job not in self.jobs:  # else it was asked before, and the answer got lost
            if function not in self.functions:
                raise Refused("unknown", f"there is no function {function!r}")
            running = self.running[function]
            if len(running) >= self.most.get(function, len(running) + 1):
                raise Refused("busy", f"{function} has enough to do", wait=0.01)
            made = Job()
            try:
                inspect.signature(self.functions[function]).bind(made, **arguments)
            except TypeError as exc:
                raise Refused("wrong", f"{function}: {exc}") from exc
            self.jobs[job] = made
            made.task = asyncio.create_task(made.run(self.functions[function], arguments))
            running.add(made)
            made.task.add_done_callback(lambda _: running.discard(made))
        yield {"job": job}

    async def do_watch(self, job: str, after: int) -> AsyncIterator[Any]:
        async for event in self._job(job).follow(after):
            yield event

    async def do_cancel(self, job: str) -> AsyncIterator[Any]:
        found = self._job(job)
        found.task.cancel()
        await asyncio.wait([found.task])
        yield {"job": job}

    def _job(self, name: str) -> Job:
        if name not in self.jobs:
            raise Refused("unknown", f"there is no job {name}")
        return self.jobs[name]
