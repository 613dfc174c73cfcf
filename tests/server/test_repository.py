"""The model repository: what it finds in a folder, and how models come, change and go while others are served."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import watchfiles

from socaity.exceptions import ConfigurationError, NotFoundError, ServerError
from socaity_server import watching
from socaity_server.loading import LoadedModel
from socaity_server.model_config import ModelConfig
from socaity_server.repository import ModelRepository
from socaity_server.runtimes.base import Runtime
from socaity_server.watching import Quiet

pytestmark = pytest.mark.anyio

SOON = 10.0
QUICK = 0.15
"""A debounce for tests."""


def put(root: Path, name: str, text: str = "good") -> Path:
    """A file that appears at once, as an editor or `mv` makes it."""
    file = root / name
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_name(f".{file.name}.part")
    part.write_text(text)
    part.replace(file)
    return file


class FakeRuntime(Runtime):
    inputs = outputs = ()
    batched = True
    name = "fake 1"

    def __init__(self, text: str) -> None:
        self.text = text
        self.is_closed = threading.Event()

    def run(self, inputs: Any) -> dict[str, np.ndarray[Any, Any]]:
        return {}

    def close(self) -> None:
        assert not self.is_closed.is_set(), "closed twice"
        self.is_closed.set()


class World:
    """A folder with its repository, and everything that the repository did to the service."""

    def __init__(self, root: Path, **options: Any) -> None:
        self.root = root
        self.served: dict[str, LoadedModel] = {}
        self.log: list[str] = []
        self.loads: list[str] = []
        self.runtimes: list[FakeRuntime] = []
        self.running = self.most_at_once = 0
        self.hold: threading.Event | None = None
        self.began = asyncio.Event()
        self.on_ready_hook: Callable[[str], Any] | None = None
        self._changed = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        options.setdefault("debounce", QUICK)
        self.repository = ModelRepository(
            root, on_ready=self._ready, on_gone=self._gone, load=self._load, **options
        )

    def _load(
        self, path: Path, config: ModelConfig, *, name: str, version: str | None, **_: Any
    ) -> LoadedModel:
        self.running += 1
        self.most_at_once = max(self.most_at_once, self.running)
        try:
            text = path.read_text()
            self.loads.append(f"{name}:{version}:{text}")
            self._loop.call_soon_threadsafe(self.began.set)
            if self.hold is not None:
                assert self.hold.wait(SOON)
            if "bad" in text:
                raise ConfigurationError(f"{path} is {text}")
            if "crash" in text:
                raise RuntimeError(text)
            runtime = FakeRuntime(text)
            self.runtimes.append(runtime)
            return LoadedModel(name, version, config, path, runtime)
        finally:
            self.running -= 1
            self._loop.call_soon_threadsafe(self._changed.set)

    async def _ready(self, name: str, loaded: LoadedModel, previous: LoadedModel | None) -> None:
        assert previous is self.served.get(name)
        if previous is not None:
            assert isinstance(previous.runtime, FakeRuntime)
            assert not previous.runtime.is_closed.is_set(), "closed while it is served"
        if self.on_ready_hook is not None:
            await self.on_ready_hook(name)
        self.served[name] = loaded
        self.note(f"ready {name}")

    async def _gone(self, name: str, loaded: LoadedModel) -> None:
        assert self.served.pop(name) is loaded
        self.note(f"gone {name}")

    def note(self, what: str) -> None:
        self.log.append(what)
        self._changed.set()

    def texts(self) -> dict[str, str]:
        return {name: loaded.runtime.text for name, loaded in self.served.items()}  # type: ignore[attr-defined]

    async def until(self, condition: Callable[[], bool]) -> None:
        """Looks again whenever the repository has done something."""
        async with asyncio.timeout(SOON):
            while not condition():
                self._changed.clear()
                changed = asyncio.create_task(self._changed.wait())
                doing = list(self.repository._operations)
                await asyncio.wait([changed, *doing], return_when=asyncio.FIRST_COMPLETED)
                changed.cancel()

    def reason(self, name: str) -> str:
        status = self.repository.status(name)
        assert status is not None
        return status.reason or ""


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with open_world(tmp_path) as world:
        yield world


@asynccontextmanager
async def open_world(root: Path, **options: Any) -> AsyncIterator[World]:
    world = World(root, **options)
    try:
        yield world
    finally:
        if world.hold is not None:
            world.hold.set()
        await world.repository.aclose()
        for runtime in world.runtimes:
            assert runtime.is_closed.wait(SOON), "a runtime was not closed"


# Loading


async def test_models_of_a_folder_are_loaded_by_name(world: World) -> None:
    put(world.root, "digits/model.onnx")
    put(world.root, "words.onnx")
    listing = await world.repository.load_all()
    assert [(one.name, one.state, one.backend) for one in listing] == [
        ("digits", "ready", "onnx"),
        ("words", "ready", "onnx"),
    ]
    assert set(world.served) == {"digits", "words"}
    assert world.repository.why_absent("digits") is None
    assert world.most_at_once == 1


async def test_a_bad_model_does_not_stop_the_others(world: World) -> None:
    put(world.root, "a/model.onnx", "bad")
    put(world.root, "b/model_config.yaml", "batching: [")
    put(world.root, "c/model.onnx")
    put(world.root, "d/model_config.yaml", "file: missing.onnx")
    put(world.root, "e/model.onnx", "crash")
    listing = await world.repository.load_all()
    assert {one.name: one.state for one in listing} == dict.fromkeys("abde", "failed") | {"c": "ready"}
    assert world.reason("a") == "a/model.onnx is bad"
    assert "model_config.yaml:1:" in world.reason("b")
    assert world.reason("d") == "There is no model file 'd/missing.onnx'."
    assert world.reason("e") == "RuntimeError: crash"
    absent = world.repository.why_absent("a")
    assert isinstance(absent, ServerError)
    assert (absent.status, absent.code) == (503, "model_failed")


async def test_a_folder_that_is_not_there_is_an_error(world: World) -> None:
    world.repository.path = world.root / "nowhere"
    with pytest.raises(ConfigurationError, match="There is no folder of models"):
        await world.repository.load_all()


async def test_a_model_that_loads_is_not_there_yet_and_says_when(world: World) -> None:
    put(world.root, "a/model.onnx")
    world.hold = threading.Event()
    loading = asyncio.create_task(world.repository.load_all())
    await world.began.wait()
    absent = world.repository.why_absent("a")
    assert isinstance(absent, ServerError)
    assert (absent.status, absent.code) == (503, "model_loading")
    assert absent.retry_after is not None
    assert absent.retry_after >= 1
    world.hold.set()
    await loading
    assert world.repository.why_absent("a") is None
    assert world.repository.why_absent("unknown") is None


async def test_the_highest_version_that_loads_is_served(world: World) -> None:
    put(world.root, "a/1/model.onnx", "one")
    put(world.root, "a/2/model.onnx", "two")
    put(world.root, "a/10/model.onnx", "bad")
    (status,) = await world.repository.load_all()
    assert (status.state, status.version, status.versions) == ("ready", "2", ("10", "2", "1"))
    assert status.reason == "Version 10: a/10/model.onnx is bad"
    status = await world.repository.load("a", "1")
    assert (status.version, world.texts()) == ("1", {"a": "one"})
    with pytest.raises(NotFoundError, match="no version '3'"):
        await world.repository.load("a", "3")
    with pytest.raises(ServerError, match="Version 1 is served still") as caught:
        await world.repository.load("a", "10")
    assert caught.value.code == "model_failed"
    status = await world.repository.load("a")
    assert status.version == "2"


async def test_an_unloaded_model_stays_so_until_it_is_loaded(world: World) -> None:
    put(world.root, "a/model.onnx")
    await world.repository.load_all()
    runtime = world.runtimes[0]
    status = await world.repository.unload("a")
    assert (status.state, world.log) == ("unloaded", ["ready a", "gone a"])
    assert runtime.is_closed.is_set()
    absent = world.repository.why_absent("a")
    assert isinstance(absent, NotFoundError)
    assert absent.code == "model_unloaded"
    await world.repository.unload("a")
    await world.repository.load_all()
    assert world.served == {}
    assert (await world.repository.load("a")).state == "ready"
    assert (await world.repository.load("a")).state == "ready"
    assert len(world.loads) == 2
    for action in (world.repository.unload, world.repository.load, world.repository.reload):
        with pytest.raises(NotFoundError, match="There is no model 'b'"):
            await action("b")


async def test_a_reload_replaces_and_then_closes_the_old_model(world: World) -> None:
    put(world.root, "a/model.onnx", "one")
    await world.repository.load_all()
    put(world.root, "a/model.onnx", "two")
    await world.repository.reload("a")
    assert world.texts() == {"a": "two"}
    assert world.runtimes[0].is_closed.is_set()
    await world.repository.reload("a")
    assert world.loads == ["a:None:one", "a:None:two", "a:None:two"]


async def test_a_failed_reload_leaves_the_old_model_serving(world: World) -> None:
    put(world.root, "a/model.onnx", "one")
    await world.repository.load_all()
    put(world.root, "a/model.onnx", "bad")
    with pytest.raises(ServerError, match="is bad"):
        await world.repository.reload("a")
    assert world.texts() == {"a": "one"}
    status = world.repository.status("a")
    assert status is not None
    assert (status.state, status.reason) == ("ready", "a/model.onnx is bad")
    put(world.root, "a/model_config.yaml", "nonsense: 1")
    put(world.root, "a/model.onnx", "two")
    await world.repository.load_all()
    assert world.texts() == {"a": "one"}
    assert "unknown key 'nonsense'" in world.reason("a")
    put(world.root, "a/model_config.yaml", "")
    await world.repository.load_all()
    assert (world.texts(), world.reason("a")) == ({"a": "two"}, "")


async def test_a_changed_version_that_fails_does_not_fall_back_to_an_older_one(world: World) -> None:
    put(world.root, "a/1/model.onnx", "one")
    put(world.root, "a/2/model.onnx", "two")
    await world.repository.load_all()
    put(world.root, "a/2/model.onnx", "bad")
    await world.repository.load_all()
    assert world.texts() == {"a": "two"}
    (world.root / "a/2/model.onnx").unlink()
    (world.root / "a/2").rmdir()
    await world.repository.load_all()
    assert world.texts() == {"a": "one"}


async def test_two_reloads_at_once_load_once(world: World) -> None:
    put(world.root, "a/model.onnx")
    await world.repository.load_all()
    world.hold = threading.Event()
    world.began.clear()
    first = asyncio.create_task(world.repository.reload("a"))
    await world.began.wait()
    others = [asyncio.create_task(world.repository.reload("a")) for _ in range(3)]
    await asyncio.gather(*[asyncio.create_task(world.repository.scan()) for _ in range(2)])
    world.hold.set()
    await asyncio.gather(first, *others)
    assert len(world.loads) == 2


async def test_a_cancelled_caller_leaves_the_load_to_end(world: World) -> None:
    put(world.root, "a/model.onnx")
    await world.repository.scan()
    world.hold = threading.Event()
    loading = asyncio.create_task(world.repository.load("a"))
    await world.began.wait()
    loading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await loading
    world.hold.set()
    await world.until(lambda: "a" in world.served)


async def test_closing_does_not_wait_for_a_load_and_closes_what_it_gives(tmp_path: Path) -> None:
    put(tmp_path, "a/model.onnx")
    put(tmp_path, "b/model.onnx")
    world = World(tmp_path)
    world.hold = threading.Event()
    loading = asyncio.create_task(world.repository.load_all())
    await world.began.wait()
    async with asyncio.timeout(SOON):
        await world.repository.aclose()
        with pytest.raises(asyncio.CancelledError):
            await loading
    assert (world.log, world.repository.listing()) == ([], ())
    world.hold.set()
    await world.until(lambda: bool(world.runtimes))
    assert world.runtimes[0].is_closed.wait(SOON)
    assert len(world.loads) == 1
    await world.repository.load_all()
    assert set(world.served) == {"a", "b"}
    await world.repository.aclose()
    assert all(runtime.is_closed.is_set() for runtime in world.runtimes)


async def test_a_model_that_cannot_be_published_is_closed_and_says_why(world: World) -> None:
    put(world.root, "a/model.onnx", "one")
    await world.repository.load_all()

    async def refuse(name: str) -> None:
        raise ConfigurationError("no place")

    world.on_ready_hook = refuse
    put(world.root, "a/model.onnx", "two")
    with pytest.raises(ServerError, match="no place"):
        await world.repository.reload("a")
    assert world.texts() == {"a": "one"}
    assert world.runtimes[1].is_closed.is_set()


async def test_a_client_that_never_ends_does_not_hold_the_closing_up(tmp_path: Path) -> None:
    put(tmp_path, "a/model.onnx")
    async with open_world(tmp_path, grace=0.05) as world:

        async def never(name: str, loaded: LoadedModel) -> None:
            await asyncio.Event().wait()

        world.repository._on_gone = never
        await world.repository.load_all()
    assert world.runtimes[0].is_closed.is_set()


async def test_a_file_written_while_it_is_loaded_is_not_served(world: World) -> None:
    put(world.root, "a/model.onnx", "one")
    world.hold = threading.Event()
    loading = asyncio.create_task(world.repository.load_all())
    await world.began.wait()
    put(world.root, "a/model.onnx", "two")
    world.hold.set()
    await loading
    assert world.served == {}
    assert "was written while it was loaded" in world.reason("a")
    await world.repository.load_all()
    assert world.texts() == {"a": "two"}


# Watching


@pytest.fixture
async def watched(tmp_path: Path) -> AsyncIterator[World]:
    put(tmp_path, "a/model.onnx", "one")
    async with open_world(tmp_path, watch=True) as world:
        await world.repository.load_all()
        yield world


async def test_a_changed_file_is_loaded(watched: World) -> None:
    put(watched.root, "a/model.onnx", "two")
    await watched.until(lambda: watched.texts() == {"a": "two"})
    (watched.root / "a/model.onnx").write_text("three")
    await watched.until(lambda: watched.texts() == {"a": "three"})
    assert watched.runtimes[0].is_closed.wait(SOON)


async def test_new_and_deleted_models_come_and_go(watched: World) -> None:
    put(watched.root, "b/1/model.onnx", "two")
    await watched.until(lambda: watched.texts() == {"a": "one", "b": "two"})
    (watched.root / "a/model.onnx").unlink()
    (watched.root / "a").rmdir()
    await watched.until(lambda: watched.texts() == {"b": "two"})
    await watched.until(lambda: watched.repository.status("a") is None)
    assert watched.repository.why_absent("a") is None
    put(watched.root, "b/2/model.onnx", "three")
    await watched.until(lambda: watched.texts() == {"b": "three"})


async def test_a_bad_file_leaves_the_old_model_and_the_next_one_is_tried(watched: World) -> None:
    put(watched.root, "a/model.onnx", "bad")
    await watched.until(lambda: "a:None:bad" in watched.loads and bool(watched.reason("a")))
    assert watched.texts() == {"a": "one"}
    put(watched.root, "a/model.onnx", "two")
    await watched.until(lambda: watched.texts() == {"a": "two"})
    await watched.until(lambda: watched.reason("a") == "")


async def test_a_slow_copy_is_loaded_only_when_it_is_complete(tmp_path: Path) -> None:
    file = put(tmp_path, "slow/model.onnx", "part")
    is_complete = threading.Event()

    def copy() -> None:
        with file.open("a") as stream:
            while not is_complete.wait(0.01):
                stream.write(".")
                stream.flush()

    copying = threading.Thread(target=copy)
    async with open_world(tmp_path, debounce=0.4) as world:
        copying.start()
        watching = asyncio.create_task(world.repository.watch())
        try:
            for name in ("one", "two"):  # each takes longer than the time that a file must be left alone
                put(tmp_path, f"{name}/model.onnx")
                await world.until(lambda name=name: name in world.served)  # type: ignore[misc]
            assert [load for load in world.loads if load.startswith("slow")] == []
        finally:
            is_complete.set()
            copying.join()
        await world.until(lambda: "slow" in world.served)
        assert len([load for load in world.loads if load.startswith("slow")]) == 1
        assert world.texts()["slow"] == file.read_text()
        watching.cancel()
        await asyncio.wait([watching])


async def test_a_folder_that_takes_the_place_of_another_is_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watching, "_LOOK_AGAIN", 0.05)
    put(tmp_path, "first/a/model.onnx", "one")
    put(tmp_path, "second/a/model.onnx", "two")
    link = tmp_path / "models"
    link.symlink_to("first")
    async with open_world(link, watch=True) as world:
        await world.repository.load_all()
        (tmp_path / "next").symlink_to("second")
        (tmp_path / "next").replace(link)
        await world.until(lambda: world.texts() == {"a": "two"})
        put(tmp_path, "second/b/model.onnx", "three")
        await world.until(lambda: world.texts() == {"a": "two", "b": "three"})
        link.unlink()
        await asyncio.sleep(0)
        link.symlink_to("first")
        await world.until(lambda: world.texts() == {"a": "one"})


async def test_where_the_system_tells_nothing_the_folder_is_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    polling: list[bool | None] = []

    def awatch(*paths: Path, force_polling: bool | None, **options: Any) -> Any:
        polling.append(force_polling)
        if not force_polling:
            raise OSError("too many watches")
        return watchfiles.awatch(*paths, force_polling=True, poll_delay_ms=20, **options)

    monkeypatch.setattr(watching, "awatch", awatch)
    async with open_world(tmp_path, watch=True) as world:
        await world.repository.load_all()
        put(tmp_path, "a/model.onnx", "one")
        await world.until(lambda: world.texts() == {"a": "one"})
    assert polling[:2] == [None, True]


async def test_a_model_that_writes_into_its_folder_is_not_loaded_again_and_again(tmp_path: Path) -> None:
    put(tmp_path, "a/model.onnx", "one")
    async with open_world(tmp_path) as world:
        load = world._load

        def load_and_write(path: Path, *args: Any, **options: Any) -> LoadedModel:
            loaded = load(path, *args, **options)
            with (path.parent / "cache.bin").open("a") as stream:
                stream.write("x")
            return loaded

        world.repository._load_file = load_and_write
        for _ in range(6):
            await world.repository.load_all()
        assert len(world.loads) == 3
        put(tmp_path, "a/model.onnx", "two")
        await world.repository.load_all()
        assert world.texts() == {"a": "two"}


async def test_a_model_unloaded_while_it_loads_is_not_served(world: World) -> None:
    put(world.root, "a/model.onnx")
    world.hold = threading.Event()
    loading = asyncio.create_task(world.repository.load_all())
    await world.began.wait()
    unloading = asyncio.create_task(world.repository.unload("a"))
    await asyncio.sleep(0)
    world.hold.set()
    await asyncio.gather(loading, unloading)
    status = world.repository.status("a")
    assert status is not None
    assert (status.state, world.log) == ("unloaded", [])


async def test_a_model_whose_files_are_gone_cannot_be_loaded_again(world: World) -> None:
    file = put(world.root, "a.onnx")
    await world.repository.load_all()
    file.unlink()
    with pytest.raises(NotFoundError, match="There is no model 'a'"):
        await world.repository.reload("a")
    assert (world.log, world.repository.listing()) == (["ready a", "gone a"], ())


async def test_two_models_of_one_name_leave_the_one_that_is_served(world: World) -> None:
    put(world.root, "a/model.onnx", "one")
    await world.repository.load_all()
    put(world.root, "b/model_config.yaml", "name: a")
    put(world.root, "b/model.onnx", "two")
    await world.repository.load_all()
    assert world.texts() == {"a": "one"}
    assert "2 models are called 'a': a and b/model_config.yaml" in world.reason("a")


async def test_errors_of_the_service_and_of_a_close_leave_the_repository_usable(world: World) -> None:
    put(world.root, "a/model.onnx")
    await world.repository.load_all()

    async def fail(name: str, loaded: LoadedModel) -> None:
        raise RuntimeError("not gone")

    world.repository._services = dataclasses.replace(world.repository._services, on_gone=fail)
    world.repository._models["a"]._services = world.repository._services
    runtime = world.runtimes[0]
    close = runtime.close

    def close_badly() -> None:
        close()
        raise RuntimeError("not closed")

    runtime.close = close_badly  # type: ignore[method-assign]
    await world.repository.unload("a")
    assert runtime.is_closed.is_set()
    world.served.clear()
    assert (await world.repository.load("a")).state == "ready"
    world.served.clear()


async def test_an_unloaded_model_is_not_loaded_because_its_file_changes(watched: World) -> None:
    await watched.repository.unload("a")
    put(watched.root, "a/model.onnx", "two")
    put(watched.root, "b/model.onnx", "two")
    await watched.until(lambda: watched.texts() == {"b": "two"})


async def test_quiet_knows_what_was_left_alone(tmp_path: Path) -> None:
    quiet = Quiet(tmp_path, debounce=1.0)
    assert quiet.touch(tmp_path / "a/model.onnx", 1.0)
    assert quiet.touch(tmp_path / "b/model.onnx", 1.5)
    assert not quiet.touch(tmp_path / ".git/x", 1.0)
    assert not quiet.touch(tmp_path / "a/__pycache__/x.pyc", 1.0)
    assert quiet.next_at() == 2.0
    assert not quiet.settle(1.9)
    assert quiet.settle(2.0)
    assert quiet.is_settled([tmp_path / "a"])
    assert not quiet.is_settled([tmp_path / "a", tmp_path / "b/model.onnx"])
    assert quiet.touch(tmp_path / "c/..data", 2.0)
    assert quiet.touch(None, 2.0)
    assert not quiet.is_settled([tmp_path / "a"])
    assert quiet.settle(3.0)
    assert quiet.next_at() is None


# The log


async def test_what_is_loaded_reloaded_and_unloaded_is_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "socaity_server")

    def said() -> list[tuple[str, str]]:
        return [(record.levelname, record.getMessage().partition(" (")[0]) for record in caplog.records]

    put(tmp_path, "a/1/model.onnx")
    put(tmp_path, "b.onnx")
    async with open_world(tmp_path, watch=True) as world:
        await world.repository.load_all()
        put(tmp_path, "a/2/model.onnx")
        await world.until(lambda: world.log.count("ready a") == 2)
        put(tmp_path, "b.onnx", "bad")
        await world.until(lambda: "bad" in world.reason("b"))
        (tmp_path / "b.onnx").unlink()
        await world.until(lambda: "b" not in world.served)
        await world.repository.unload("a")
    assert said() == [
        ("INFO", "The model a is loaded, version 1"),
        ("INFO", "The model b is loaded"),
        ("INFO", "The model a is reloaded, version 2"),
        ("WARNING", "The model b could not be loaded: b.onnx is bad"),
        ("INFO", "The model b is unloaded"),
        ("INFO", "The model a is unloaded"),
    ]
