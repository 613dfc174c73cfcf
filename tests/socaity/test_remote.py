"""`remote`: a function that is written down here and runs there."""

from __future__ import annotations

import inspect
import pathlib
from collections.abc import AsyncIterator, Iterable, Iterator
from io import BytesIO
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image
from pydantic import BaseModel, ConfigDict

import socaity
from socaity import ConfigurationError, InvalidInputError, JobFailed, Media, NotFoundError
from socaity.protocol.description import ParameterDescription
from socaity.testing import ScriptedTransport, number_events

from .doubles import DEADLINE, HeldTransport, endpoint

if TYPE_CHECKING:
    from decimal import Decimal


class Cat(BaseModel):
    model_config = ConfigDict(extra="forbid")

    name: str
    age: int


PARAMETERS = [
    ParameterDescription(name="text", json_schema={"type": "string"}),
    ParameterDescription(name="steps", json_schema={"type": "integer"}, required=False, default=1),
]
NAMES = ["draw", "plain", "array", "unknown_type", "nothing"]
STREAMS = ["write", "write_any", "write_bare", "write_async"]


def wire(*results: tuple[Any, Any]) -> ScriptedTransport:
    endpoints = [endpoint(name, *PARAMETERS) for name in NAMES]
    endpoints += [endpoint(name, *PARAMETERS, streaming=True) for name in STREAMS]
    return ScriptedTransport(endpoints, number_events(*results))


def remote(transport: ScriptedTransport, **options: Any) -> Any:
    return socaity.remote("memory://test", transport=transport, progress=False, **options)


def test_the_result_has_the_annotated_type() -> None:
    transport = wire(("result", {"name": "Tom", "age": 3}))

    @remote(transport)
    def draw(text: str, steps: int = 4) -> Cat:
        """Draw a cat."""
        raise AssertionError("the body never runs")

    assert draw("a cat").result(DEADLINE) == Cat(name="Tom", age=3)
    assert transport.calls == [("draw", {"text": "a cat", "steps": 4})]
    assert draw.__doc__ == "Draw a cat."
    assert str(inspect.signature(draw)) == "(text: 'str', steps: 'int' = 4) -> 'Cat'"
    assert draw.map(["a", "b"], steps=2).result(DEADLINE) == [Cat(name="Tom", age=3)] * 2
    draw.endpoint.service.close()


def test_importing_a_module_with_remote_functions_connects_to_nothing() -> None:
    opened = []

    @socaity.remote("memory://test", transport=lambda target: opened.append(target) or HeldTransport())
    def ask(value: int) -> int: ...

    assert opened == []
    assert ask.__name__ == "ask"


def test_a_result_of_another_type_fails_the_job() -> None:
    @remote(wire(("result", {"name": "Tom"})))
    def draw(text: str) -> Cat: ...

    with pytest.raises(JobFailed, match="does not fit the declared type"):
        draw("a").result(DEADLINE)
    draw.endpoint.service.close()


def test_wrong_arguments_are_refused_here() -> None:
    transport = wire(("result", 1))

    @remote(transport, endpoint="draw")
    def sketch(text: str, steps: int = 4) -> int: ...

    with pytest.raises(InvalidInputError, match="missing a required argument: 'text'"):
        sketch()
    with pytest.raises(InvalidInputError, match="expected an integer"):
        sketch("a", steps="x")
    assert sketch("a").result(DEADLINE) == 1
    assert len(transport.calls) == 1
    sketch.endpoint.service.close()


def test_an_endpoint_that_is_not_there_is_named() -> None:
    @remote(wire())
    def draww(text: str) -> int: ...

    with pytest.raises(NotFoundError, match="did you mean 'draw'"):
        draww("a")


def test_chunks_of_a_stream_have_the_annotated_type() -> None:
    transport = wire(
        ("chunk", {"name": "Tom", "age": 3}), ("chunk", {"name": "Kit", "age": 1}), ("result", None)
    )

    @remote(transport)
    def write(text: str) -> Iterator[Cat]: ...

    @remote(transport)
    def write_any(text: str) -> Iterable[Any]: ...

    @remote(transport)
    def write_bare(text: str) -> Iterator: ...  # type: ignore[type-arg]

    @remote(transport)
    def write_async(text: str) -> AsyncIterator[Cat]: ...

    cats = [Cat(name="Tom", age=3), Cat(name="Kit", age=1)]
    job = write("a")
    assert list(job) == job.result(DEADLINE) == cats
    assert write_async("a").result(DEADLINE) == cats
    assert [chunk["name"] for chunk in write_any("a").result(DEADLINE)] == ["Tom", "Kit"]
    assert [chunk["name"] for chunk in write_bare("a")] == ["Tom", "Kit"]
    write.endpoint.service.close()


def test_a_wrong_chunk_fails_the_stream() -> None:
    @remote(wire(("chunk", 5), ("result", None)))
    def write(text: str) -> Iterator[Cat]: ...

    with pytest.raises(socaity.SocaityError):
        list(write("a"))
    write.endpoint.service.close()


def test_what_needs_no_turning_stays_as_it_is() -> None:
    array = np.ones(2)
    transport = wire(("result", array))

    @remote(transport)
    def array_(text: str) -> np.ndarray: ...

    @remote(transport, endpoint="array")
    def array(text: str) -> np.ndarray: ...  # type: ignore[no-redef]

    @remote(transport)
    def unknown_type(text: str) -> Decimal: ...

    @remote(transport)
    def plain(text: str): ...  # type: ignore[no-untyped-def]

    for function in (array, unknown_type, plain):
        assert isinstance(function("a").result(DEADLINE), np.ndarray)


def test_further_keywords_are_passed_on() -> None:
    transport = wire(("result", None))

    @remote(transport)
    def draw(text: str, **more: Any) -> None: ...

    draw("a", steps=2).result(DEADLINE)
    assert transport.calls == [("draw", {"text": "a", "steps": 2})]
    draw.endpoint.service.close()


def test_options_of_calls_do_not_connect_and_keep_the_types() -> None:
    opened: list[str] = []
    transport = HeldTransport()

    def to(target: str) -> HeldTransport:
        opened.append(target)
        return transport

    @socaity.remote("memory://test", transport=to, progress=False)
    def ask(value: object) -> Cat: ...

    made_once = ask.with_options(memoize=True)
    assert not opened
    job = made_once(1)
    assert made_once(1) is ask.with_options(memoize=True)(1) is made_once.with_options(memoize=True)(1) is job
    assert ask(1) is not job
    assert made_once.with_options(explain=True)(1) is not job
    untyped = ask.endpoint.service.ask.with_options(memoize=True)(1)
    assert untyped is not job
    first, *_, last = transport.wait_for(4)
    transport.succeed(first, {"name": "Tom", "age": 3})
    transport.succeed(last, {"name": "Kit", "age": 1})
    assert job.result(DEADLINE) == Cat(name="Tom", age=3)
    assert untyped.result(DEADLINE) == {"name": "Kit", "age": 1}
    ask.endpoint.service.close()


def test_options_follow_the_function_to_another_service() -> None:
    service = socaity.remote("memory://one", transport=wire(("result", "one")), progress=False)

    @service
    def plain(text: str) -> str: ...

    made_once = plain.with_options(memoize=True)
    assert made_once("a").result(DEADLINE) == "one"
    service.use("memory://two", transport=wire(("result", "two")), progress=False)
    assert made_once("a").result(DEADLINE) == "two"
    service.service.close()


def test_options_that_the_live_endpoint_does_not_take_fail_the_call() -> None:
    @remote(wire(("result", None)))
    def plain(text: str) -> str: ...

    hasty = plain.with_options(timeout=1.0)
    with pytest.raises(socaity.exceptions.ConfigurationError, match=r"job\.result"):
        hasty("a")
    plain.endpoint.service.close()


def test_a_wrong_name_is_named_and_the_nearest_too() -> None:
    @remote(wire())
    def draw(text: str, steps: int = 4) -> int: ...

    with pytest.raises(
        InvalidInputError, match=r"^draw\(\) has no argument 'stepps'; did you mean 'steps'\?$"
    ) as caught:
        draw(stepps=3)
    assert caught.value.parameter == "stepps"
    with pytest.raises(
        InvalidInputError, match=r"^draw\(text: str, steps: int = 4\) -> int: missing a required"
    ):
        draw()
    draw.endpoint.service.close()


def test_a_remote_function_shows_its_signature() -> None:
    @socaity.remote("memory://test", transport=HeldTransport)
    def draw(text: str, style: str = "a: 'b'") -> Cat: ...

    assert repr(draw) == """<RemoteFunction draw(text: str, style: str = "a: 'b'") -> Cat>"""


def test_a_path_as_the_result_is_refused_where_it_is_written() -> None:
    service = socaity.remote("memory://test", transport=HeldTransport)

    def one(text: str) -> pathlib.Path: ...

    def many(text: str) -> list[pathlib.Path | None]: ...

    for function in (one, many):
        with pytest.raises(ConfigurationError, match=r"write `-> socaity\.Media`"):
            service(function)

    @service
    def pure(text: str) -> pathlib.PurePosixPath: ...


def test_a_file_comes_as_media_whatever_is_in_it() -> None:
    png = BytesIO()
    Image.new("RGB", (2, 2)).save(png, "png")
    files = [
        {"$media": "text/plain", "data": b"abc", "name": "a.txt"},
        {"$media": "image/png", "data": png.getvalue()},
    ]

    @remote(wire(("result", files)), endpoint="draw")
    def store(text: str) -> list[Media]: ...

    text, picture = store("abc").result(DEADLINE)
    assert (text.data, text.media_type, text.name) == (b"abc", "text/plain", "a.txt")
    assert (picture.data, picture.media_type, picture.name) == (png.getvalue(), "image/png", None)
    store.endpoint.service.close()
