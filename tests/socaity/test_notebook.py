"""Jobs in the cells of a real Jupyter kernel, where an event loop runs while the cell does."""

import re
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from typing import Any

import pytest
from jupyter_client import BlockingKernelClient, KernelManager

DEADLINE = 40.0

SERVICE = '''
import asyncio, threading
import socaity
from socaity._display import Display
from socaity.protocol.description import EndpointDescription, ServiceDescription
from socaity.protocol.events import JobEvent
from socaity.transport import Transport

class Scripted(Transport):
    """`now` answers at once, `write` streams three words, `later` ends when the gate is opened."""

    @classmethod
    def open(cls, target):
        return cls()

    async def describe(self):
        return ServiceDescription(endpoints=[
            EndpointDescription(name="now", path="/now"),
            EndpointDescription(name="later", path="/later"),
            EndpointDescription(name="write", path="/write", streaming=True),
        ])

    async def run(self, call):
        call.accept()
        yield JobEvent(1, "status", {"status": "running", "queue_position": None})
        if call.endpoint.name == "write":
            for number, word in enumerate(["once", "upon", "a time"], 2):
                yield JobEvent(number, "chunk", word)
            yield JobEvent(5, "result", None)
            return
        yield JobEvent(2, "progress", {"fraction": 0.5, "message": "halfway"})
        if call.endpoint.name == "later":
            await asyncio.get_running_loop().run_in_executor(None, gate.wait, 60)
        yield JobEvent(3, "result", call.endpoint.name)

    async def cancel(self, job_id):
        pass

    async def aclose(self):
        await self._cancel_tasks()

gate = threading.Event()
service = socaity.connect("scripted://", transport=Scripted())
'''


class Notebook:
    """A kernel, and what its cells print and return."""

    def __init__(self) -> None:
        self.manager = KernelManager()
        self.manager.start_kernel()
        self.client: BlockingKernelClient = self.manager.client()
        self.client.start_channels()
        self.client.wait_for_ready(timeout=DEADLINE)

    def close(self) -> None:
        self.client.stop_channels()
        self.manager.shutdown_kernel(now=True)
        self.manager.cleanup_resources()

    def start(self, code: str) -> str:
        return self.client.execute(textwrap.dedent(code))

    def messages(self, cell: str) -> Iterator[tuple[str, dict[str, Any]]]:
        """What the cell publishes, until it has run."""
        give_up = time.monotonic() + DEADLINE
        while (left := give_up - time.monotonic()) > 0:
            message = self.client.get_iopub_msg(timeout=left)
            if message["parent_header"].get("msg_id") != cell:
                continue
            kind, content = message["msg_type"], message["content"]
            if kind == "status" and content["execution_state"] == "idle":
                return
            yield kind, content
        raise AssertionError("the cell did not end in time")

    def next_update(self, of: str, wanted: str) -> dict[str, str]:
        """What replaces a display, as soon as `wanted` is in its HTML; no cell has to run for it."""
        give_up = time.monotonic() + DEADLINE
        while (left := give_up - time.monotonic()) > 0:
            message = self.client.get_iopub_msg(timeout=left)
            if (
                message["msg_type"] == "update_display_data"
                and message["content"]["transient"]["display_id"] == of
            ):
                bundle: dict[str, str] = message["content"]["data"]
                if wanted in bundle["text/html"]:
                    return bundle
        raise AssertionError(f"{wanted!r} was not shown in time")

    def finish(self, cell: str) -> "Output":
        return Output(list(self.messages(cell)))

    def run(self, code: str) -> "Output":
        """The output of a cell that must not raise."""
        output = self.finish(self.start(code))
        assert output.error is None, output.error
        return output


class Output:
    def __init__(self, messages: list[tuple[str, dict[str, Any]]]) -> None:
        texts: dict[str, str] = {"stdout": "", "stderr": ""}
        self.value: str | None = None
        self.value_html: str | None = None
        self.displays: list[tuple[str, str | None, dict[str, str]]] = []
        self.error: str | None = None
        for kind, content in messages:
            if kind == "stream":
                texts[content["name"]] += content["text"]
            elif kind == "execute_result":
                self.value = content["data"]["text/plain"]
                self.value_html = content["data"].get("text/html")
            elif kind in ("display_data", "update_display_data"):
                self.displays.append((kind, content["transient"].get("display_id"), content["data"]))
            elif kind == "error":
                self.error = f"{content['ename']}: {content['evalue']}"
        self.stdout, self.stderr = texts["stdout"], texts["stderr"]


@pytest.fixture(scope="module")
def notebook() -> Iterator[Notebook]:
    notebook = Notebook()
    try:
        notebook.run(SERVICE)
        yield notebook
    finally:
        notebook.close()


def test_result_works_in_a_cell_although_a_loop_runs(notebook: Notebook) -> None:
    output = notebook.run("asyncio.get_running_loop().is_running(), service.now().result(timeout=20)")
    assert output.value == "(True, 'now')"


def test_await_works_in_a_cell(notebook: Notebook) -> None:
    assert notebook.run("await service.now()").value == "'now'"
    assert (
        notebook.run("await asyncio.gather(*(service.now() for _ in range(3)))").value
        == "['now', 'now', 'now']"
    )


def test_two_cells_read_the_whole_of_one_stream(notebook: Notebook) -> None:
    words = "['once', 'upon', 'a time']"
    assert notebook.run("story = service.write()\n[word async for word in story]").value == words
    assert notebook.run("[word for word in story]").value == words
    notebook.run(
        """
        async def read():
            return [word async for word in tale]
        tale = service.write()
        reader = asyncio.create_task(read())
        """
    )
    assert notebook.run("[word for word in tale]").value == words
    assert notebook.run("await reader").value == words


def test_a_bar_is_text_in_the_cell_that_waits(notebook: Notebook) -> None:
    notebook.run(
        """
        from socaity import _lines

        def opened(reading, now, open_line=_lines.open_line):
            line = open_line(reading, now)
            gate.set()
            return line

        gate.clear()
        Display.show_after = Display.tick = 0.0
        job = service.later()
        while job.progress.fraction is None:
            await asyncio.sleep(0)
        """
    )
    notebook.run("_lines.open_line, before = opened, _lines.open_line")
    output = notebook.run("job.result(20)")
    notebook.run("_lines.open_line = before")
    assert output.value == "'later'"
    assert "later:  50%|" in output.stderr
    assert "halfway" in output.stderr
    assert re.search(r"\rlater: succeeded after \d\d:\d\d\n$", output.stderr)
    assert "IProgress" not in output.stderr
    assert output.stdout == ""


def test_an_interrupt_stops_the_waiting_and_not_the_job(notebook: Notebook) -> None:
    notebook.run("gate.clear(); Display.show_after = Display.tick = 0.0; job = service.later()")
    cell = notebook.start("job.result()")
    for _, content in notebook.messages(cell):
        if "later: " in str(content):  # a bar, so it waits
            break
    notebook.manager.interrupt_kernel()
    output = notebook.finish(cell)
    assert output.error is not None
    assert output.error.startswith("KeyboardInterrupt")
    assert notebook.manager.is_alive()
    job_id = notebook.run("job.id").value
    assert job_id is not None
    assert f"Stopped waiting; job {job_id[1:-1]} runs on" in output.stderr
    assert notebook.run("str(job.status)").value == "'running'"
    assert notebook.run(f"service.job({job_id}) is job").value == "True"
    again = notebook.run("threading.Timer(0, gate.set).start(); job.result(20)")
    assert again.value == "'later'"


def test_a_displayed_job_is_updated_after_its_cell_has_ended(notebook: Notebook) -> None:
    output = notebook.run("gate.clear(); job = service.later(); job")
    kind, display_id, bundle = output.displays[0]
    assert kind == "display_data"
    assert display_id is not None
    assert output.value is None, "not a second time as the result of the cell"
    assert bundle["text/plain"].startswith("<Job later ")
    assert "socaity-view" in bundle["text/html"]
    assert "running, 50%" in notebook.next_update(display_id, "halfway")["text/html"]
    notebook.run("gate.set()")
    last = notebook.next_update(display_id, ">succeeded<")
    if ">later</span>" not in last["text/html"]:  # the result follows when the kernel is idle
        last = notebook.next_update(display_id, ">later</span>")
    assert "succeeded" in last["text/plain"]
    notebook.run("from socaity._display import _display\nwhile _display._views: await asyncio.sleep(0)")


def test_a_displayed_job_is_updated_while_its_cell_runs(notebook: Notebook) -> None:
    notebook.run(
        """
        from IPython.display import display
        from socaity import _live_view

        def draw(self, now, draw=_live_view.LiveView.draw):
            has_ended = draw(self, now)
            if "halfway" in self._last:
                gate.set()
            return has_ended

        before, _live_view.LiveView.draw = _live_view.LiveView.draw, draw
        """
    )
    notebook.run("Display.show_after = Display.tick = 0.0; gate.clear()")
    output = notebook.run("job = service.later(); display(job); job.result(20)")
    assert output.value == "'later'"
    assert output.stderr == "", "the view is in the same cell: no bar beside it"
    (display_id,) = {display_id for _, display_id, _ in output.displays}
    pages = [bundle["text/html"] for _, _, bundle in output.displays]
    assert display_id is not None
    # messages of two threads of the kernel may overtake each other
    for wanted in ("halfway", ">succeeded<"):
        if not any(wanted in page for page in pages):
            notebook.next_update(display_id, wanted)
    notebook.run("_live_view.LiveView.draw = before")


def test_a_job_that_has_ended_is_an_ordinary_result(notebook: Notebook) -> None:
    output = notebook.run("job = service.now(); job.result(20); job")
    assert output.displays == []
    assert output.value is not None
    assert output.value.startswith("<Job now ")
    assert output.value_html is not None
    assert ">now</span>" in output.value_html
    assert "Where the time went" in (notebook.run("job.timeline()").value_html or "")


def test_groups_and_services_have_views(notebook: Notebook) -> None:
    output = notebook.run("gate.clear(); group = socaity.gather(service.now(), service.later()); group")
    _, display_id, bundle = output.displays[0]
    assert display_id is not None
    assert "group of 2 jobs" in bundle["text/html"]
    notebook.run("gate.set()")
    notebook.next_update(display_id, "2 of 2 ended")
    assert "3 endpoints" in (notebook.run("service").value_html or "")


def test_display_outside_of_a_kernel_prints_one_line() -> None:
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            f"{SERVICE}\nfrom IPython.display import display\njob = service.later()\n"
            "display(job)\ngate.set()\nprint(job.result(20))\ndisplay(job)",
        ],
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=True,
    )
    lines = done.stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["<Job", "later", "<Job"]
    assert done.stderr == ""
