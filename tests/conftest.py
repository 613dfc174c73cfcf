"""What all tests share: the --long option, the async back-ends, and a check for threads left behind."""

import threading
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

# How quickly examples are made and run says something about the machine, not about the code.
settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")

# Workers of an event loop, which end with it, and the clock of pytest-timeout.
OTHER_THREADS = ("AnyIO worker thread", "asyncio_", "pytest_timeout")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--long", action="store_true", help="run the tests marked long as well")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--long"):
        return
    long = [item for item in items if item.get_closest_marker("long")]
    if long:
        items[:] = [item for item in items if item not in long]
        config.hook.pytest_deselected(items=long)


@pytest.fixture(scope="module", params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    """Every test marked `anyio` runs on both; a module that needs one loop overrides this."""
    return request.param


@pytest.fixture(scope="module", autouse=True)
def no_thread_left() -> Iterator[None]:
    """A non-daemon thread that outlives its module would keep the interpreter from ending."""
    before = set(threading.enumerate())
    yield
    left = [t for t in threading.enumerate() if t not in before and not t.daemon]
    left = [t for t in left if not t.name.startswith(OTHER_THREADS)]
    for thread in left:
        thread.join(timeout=2)
    assert not [t for t in left if t.is_alive()]
