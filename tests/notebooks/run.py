"""Runs the notebooks of the examples and stores what they show: `python tests/notebooks/run.py [NUMBER …]`.

Each runs in a kernel of its own, in a copy of the examples, so that nothing is left behind. If a cell raises, the file stays
as it was. Views are stored as they are when they are updated no more. One picture of each goes to docs/pictures as well.
"""

from __future__ import annotations

import base64
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import nbformat
from jupyter_client.blocking import BlockingKernelClient
from jupyter_client.manager import KernelManager

__all__ = ["NOTEBOOKS", "PICTURES", "CellError", "executed", "picture_in_docs", "stored"]

EXAMPLES = Path(__file__).parents[2] / "examples"
NOTEBOOKS = sorted((EXAMPLES / "notebooks").glob("*.ipynb"))
PICTURES = Path(__file__).parents[2] / "docs" / "pictures"
DEADLINE = 100.0
"""Seconds for one cell."""

_IN_DOCS = {
    "01_read_pictures": ("results", 1),
    "02_semantic_search": ("strips", 0),
    "03_streaming_speech": ("draw", 0),
}
"""The cell, and which of its outputs is the picture in the documentation."""
_IGNORED = shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints")
_SETTLED = """
import sys
if "socaity._display" in sys.modules:
    import asyncio
    while sys.modules["socaity._display"]._display._views:
        await asyncio.sleep(0.01)
"""
_PORT = re.compile(r"(?<=127\.0\.0\.1:)\d{4,5}")
_JOB_ID = re.compile(r"\b[0-9a-f]{32}\b")


class CellError(Exception):
    """A cell raised; has its code and the traceback."""


def executed(notebook: Path, *, folder: Path, more: Sequence[str] = ()) -> Any:
    """The notebook after its cells, and then those in `more`, ran in a copy of the examples in `folder`.

    Raises CellError with the traceback of the first cell that raises.
    """
    examples = folder / "examples"
    shutil.copytree(EXAMPLES, examples, dirs_exist_ok=True, ignore=_IGNORED)
    document = nbformat.read(examples / "notebooks" / notebook.name, as_version=4)
    document.cells += [nbformat.v4.new_code_cell(code) for code in more]
    manager = KernelManager()
    manager.start_kernel(cwd=str(examples / "notebooks"))
    client = manager.client()
    try:
        client.start_channels()
        client.wait_for_ready(timeout=DEADLINE)
        run = _Run(client)
        for cell in document.cells:
            if cell.cell_type == "code":
                run.cell(cell)
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
        manager.cleanup_resources()
    return document


class _Run:
    """One kernel, and the displays that later messages may replace."""

    def __init__(self, client: BlockingKernelClient) -> None:
        self._client = client
        self._displays: dict[str, Any] = {}
        self._count = 0

    def cell(self, cell: Any) -> None:
        """Run a cell, and wait until no view changes any more."""
        cell.outputs = []
        self._count += 1
        cell.execution_count = self._count
        self._execute(cell.source, cell.outputs)
        self._execute(_SETTLED, [], store_history=False)

    def _execute(self, code: str, outputs: list[Any], *, store_history: bool = True) -> None:
        own = self._client.execute(code, store_history=store_history)
        error = None
        give_up = time.monotonic() + DEADLINE
        while True:
            message = self._client.get_iopub_msg(timeout=max(0.0, give_up - time.monotonic()))
            kind, content = message["msg_type"], message["content"]
            is_own = message["parent_header"].get("msg_id") == own
            if kind == "update_display_data":  # of this cell or of an earlier one
                self._update(content)
            elif not is_own:
                continue
            elif kind == "status" and content["execution_state"] == "idle":
                break
            elif kind in ("stream", "display_data", "execute_result", "error"):
                error = content if kind == "error" else error
                self._put(outputs, nbformat.v4.output_from_msg(message), content)
        if error is not None:
            trace = re.sub(r"\x1b\[[0-9;]*m", "", "\n".join(error["traceback"]))
            raise CellError(f"This cell raised:\n{code}\n\n{trace}")

    def _update(self, content: Any) -> None:
        output = self._displays.get(content["transient"]["display_id"])
        if output is not None:
            output.data, output.metadata = map(nbformat.from_dict, (content["data"], content["metadata"]))

    def _put(self, outputs: list[Any], output: Any, content: Any) -> None:
        last = outputs[-1] if outputs else None
        if (
            output.output_type == "stream"
            and last is not None
            and last.output_type == "stream"
            and last.name == output.name
        ):
            last.text += output.text
            return
        outputs.append(output)
        display_id = content.get("transient", {}).get("display_id")
        if display_id is not None:
            self._displays[display_id] = output


def stored(document: Any) -> str:
    """The notebook as its file: without what is different each time and says nothing to readers."""
    document.metadata = nbformat.from_dict(
        {
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python"},
        }
    )
    nbformat.validate(document)
    text: str = nbformat.writes(document)
    ids: dict[str, str] = {}

    def same_id(match: re.Match[str]) -> str:
        return ids.setdefault(match[0], sha256(str(len(ids)).encode()).hexdigest()[:32])

    return _JOB_ID.sub(same_id, _PORT.sub("8000", text)) + "\n"


def picture_in_docs(name: str, document: Any) -> bytes:
    """The picture of a notebook, which is named without `.ipynb`, for the documentation: a PNG."""
    place, number = _IN_DOCS[name]
    cell = next(cell for cell in document.cells if cell.id == place)
    return base64.b64decode(cell.outputs[number].data["image/png"])


def main(arguments: Sequence[str]) -> None:
    """Run and store those whose number is named, or all."""
    for notebook in NOTEBOOKS:
        if arguments and not notebook.name.startswith(tuple(arguments)):
            continue
        begun = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            document = executed(notebook, folder=Path(folder))
        text = stored(document)
        notebook.write_text(text, encoding="utf-8")
        PICTURES.mkdir(exist_ok=True)
        (PICTURES / f"{notebook.stem}.png").write_bytes(picture_in_docs(notebook.stem, document))
        print(f"{notebook.name}: {time.monotonic() - begun:.1f} s, {len(text) / 1000:.0f} kB")


if __name__ == "__main__":
    main(sys.argv[1:])
