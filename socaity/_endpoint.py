"""An Endpoint: a remote function as a local one."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable
from contextvars import copy_context
from functools import cached_property
from numbers import Real
from typing import TYPE_CHECKING, Any, NoReturn, Self

from ._job import Job
from ._media_decode import make_decode
from ._media_upload import takes_media
from ._schema import UnfinishedError
from ._scope import call_step, current, running
from ._signature import make_bind, make_signature
from .exceptions import ConfigurationError, InvalidInputError
from .protocol.description import EndpointDescription
from .transport import CallOptions

if TYPE_CHECKING:
    from ._group import JobGroup
    from ._service import Service

__all__ = ["Endpoint"]


class Endpoint:
    """A remote function: call it and get a Job at once.

    Signature, docstring and annotations are those of the live description. Wrong arguments raise InvalidInputError, with
    the parameter named, before anything is sent.
    """

    decode: Callable[[Any], Any] | None = None
    decode_chunk: Callable[[Any], Any] | None = None

    def __init__(self, service: Service, description: EndpointDescription) -> None:
        self.service = service
        self.description = description
        self.name = description.name
        self.may_stream = description.streaming
        self.__name__ = self.__qualname__ = description.name
        self.__doc__ = description.doc
        self.__signature__ = make_signature(description)
        self.__annotations__ = {
            name: one.annotation
            for name, one in self.__signature__.parameters.items()
            if one.annotation is not one.empty
        }
        self._bind = make_bind(description)
        self.decode = self.decode_chunk = make_decode(description)
        self._memoizes = False
        self.options: CallOptions | None = None

    def with_options(
        self,
        *,
        timeout: float | None = None,
        priority: int = 0,
        explain: bool = False,
        memoize: bool = False,
    ) -> Self:
        """This endpoint for calls that end within `timeout` seconds, or overtake others by their `priority` (-10 to 10).

        These two are for models and batched functions. The time travels with the call: the server refuses at once what it
        could not answer in time, and never runs what is too late. Such a job ends in ServerError (503 `too_late`, 504
        `deadline_exceeded`) or TransportTimeout. Raises ConfigurationError for an endpoint that is answered with a job; use
        `job.result(timeout=…)` and `job.cancel()` there.

        With `explain` the service says where the time went: `job.timing`. With `memoize` the same arguments to the same
        endpoint, as it describes itself now, give the job of the first such call again, while that has not failed. The last
        1,000 jobs are remembered, in memory.
        """
        if (timeout is not None or priority) and not self.description.direct:
            raise ConfigurationError(
                f"{self.name} is answered with a job, which takes no timeout or priority; "
                "use job.result(timeout=…) and job.cancel()"
            )
        if timeout is not None and not (_is_number(timeout) and 0 < timeout < math.inf):
            raise ConfigurationError(f"timeout must be a number of seconds above 0, got {timeout!r}")
        if not (_is_number(priority) and -10 <= priority <= 10 and priority == int(priority)):
            raise ConfigurationError(f"priority must be a whole number from -10 to 10, got {priority!r}")
        other = copy.copy(self)
        other.options = None
        if timeout is not None or priority or explain:
            other.options = CallOptions(timeout, priority, explain)
        other._memoizes = memoize
        return other

    @cached_property
    def opens_files(self) -> bool:
        """Whether text among its arguments may name a file or an address that is read here."""
        parameters = self.description.parameters
        return takes_media([one.json_schema for one in parameters]) or any(
            one.location == "file" for one in parameters
        )

    def _unmemoized(self, *args: Any, **kwargs: Any) -> Job[Any]:
        other = copy.copy(self)
        other._memoizes = False
        return other(*args, **kwargs)

    def __call__(self, /, *args: Any, **kwargs: Any) -> Job[Any]:
        """Check the arguments and start the job. Raises InvalidInputError."""
        if running and current.get() is not None:
            return call_step(self, args, kwargs)
        if self._memoizes:
            return self.service._memo.call(self, args, kwargs)
        service = self.service
        try:
            job: Job[Any] = Job(self, self._bind(args, kwargs))
        except UnfinishedError as exc:
            from ._references import call_with_jobs

            service._check_open()
            try:
                job = call_with_jobs(self, exc.arguments)
            except RecursionError:
                raise self._too_deep() from None
        except RecursionError:
            raise self._too_deep() from None
        else:
            wire = service._transport
            if wire is None or wire.uses_context:
                job.context = copy_context()
            service._submit(job)
        if self.options is not None:
            service._keep_time(job)
        return job

    submit = __call__

    def _too_deep(self) -> InvalidInputError:
        return InvalidInputError(
            f"{self.name}: an argument contains itself, or is nested too deep to be sent"
        )

    def map(self, *inputs: Iterable[Any], concurrency: int = 2048, **constant: Any) -> JobGroup[Any]:
        """Call once for every item of `inputs` (several are walked together, as by `map`) and return the group at once.

        At most `concurrency` jobs are unfinished at a time; the inputs are read as places get free. Keyword arguments are
        the same for all calls. A row with a wrong argument fails alone, as its member of the group.
        """
        from ._pipeline import map_endpoint

        return map_endpoint(self, inputs, constant, concurrency)

    def __copy__(self) -> Self:
        other = object.__new__(type(self))
        vars(other).update(vars(self))
        return other

    def __deepcopy__(self, memo: object) -> Self:
        return self  # as of a file: what holds it may be copied

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            f"{self!r} belongs to a connection of this process; connect again where it is to be called: "
            f"socaity.connect(url)[{self.name!r}], or call a function of a module there, as `socaity stub` writes them"
        )

    def __repr__(self) -> str:
        return f"<Endpoint {self.name}{self.__signature__}>"


def _is_number(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)
