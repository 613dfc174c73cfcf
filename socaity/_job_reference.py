"""A JobReference: a part of a result to come."""

from __future__ import annotations

import operator
from collections.abc import Generator, Iterator, Mapping
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from ._job import Job

__all__ = ["JobReference"]


class JobReference:
    """A part of the result of a job that may not have ended; pass it on as an argument."""

    __slots__ = ("job", "path")

    def __init__(self, job: Job[Any], path: tuple[str | int, ...]) -> None:
        self.job = job
        self.path = path

    def __getitem__(self, key: str | int) -> JobReference:
        return JobReference(self.job, (*self.path, checked_key(key)))

    def __copy__(self) -> JobReference:
        return self

    def __deepcopy__(self, memo: object) -> JobReference:
        return self

    def result(self, timeout: float | None = None) -> Any:
        """The part, when the job has ended."""
        return self.resolve(self.job.result(timeout))

    def __await__(self) -> Generator[Any, Any, Any]:
        value = yield from self.job.__await__()
        return self.resolve(value)

    def resolve(self, value: Any) -> Any:
        """The part of `value`. Raises KeyError, IndexError or TypeError with the path in the message."""
        for depth, key in enumerate(self.path):
            try:
                value = _part(value, key)
            except (KeyError, IndexError, TypeError) as exc:
                place = "".join(f"[{part!r}]" for part in self.path[: depth + 1])
                raise type(exc)(f"the result of {self.job!r} has no {place}: {exc}") from exc
        return value

    def __bool__(self) -> NoReturn:
        raise TypeError(
            f"{self!r} is a part of the result of a job, not the value, and always true; write .result() (or await it), "
            "or `is not None`"
        )

    def __iter__(self) -> Iterator[Any]:
        raise TypeError("a part of an unfinished result cannot be iterated; use .result() first")

    def __repr__(self) -> str:
        return f"<{self.job!r}{''.join(f'[{key!r}]' for key in self.path)}>"


def checked_key(key: str | int) -> str | int:
    """Raises TypeError for what names no part of a result on a server, such as a slice."""
    if type(key) is str:
        return key
    try:
        return operator.index(key)  # type: ignore[arg-type]
    except TypeError:
        raise TypeError(
            f"a part of an unfinished result is named by text or a whole number, not by {key!r}; "
            "take the rest of .result()"
        ) from None


def _part(value: Any, key: str | int) -> Any:
    """An item, or the field of a dataclass or model: at the service, which looks it up as well, they are mappings."""
    if isinstance(key, str) and not isinstance(value, Mapping):
        fields = getattr(type(value), "__dataclass_fields__", None) or getattr(
            type(value), "model_fields", {}
        )
        if key in fields:
            return getattr(value, key)
        named = [name for name, field in fields.items() if getattr(field, "alias", None) == key]
        if named:
            return getattr(value, named[0])
    return value[key]
