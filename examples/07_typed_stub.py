"""A typed module for a service: written by `socaity stub`, checked by mypy and pyright, and known to the editor."""

import importlib
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

from pydantic import BaseModel

from socaity_server import SocaityRouter

router = SocaityRouter()


class Style(BaseModel):
    """How it is painted."""

    name: str = "oil"
    strength: float = 0.5


@router.add_route("/paint")
def paint(text: str, style: Style | None = None) -> list[Style]:
    """Paint something in a style, and in a stronger one."""
    style = style or Style()
    return [style, Style(name=f"{style.name} {text}", strength=2 * style.strength)]


def socaity(*words: str) -> int:
    """What you would type into a shell."""
    return subprocess.run([sys.executable, "-m", "socaity.cli", *words], stderr=subprocess.DEVNULL).returncode


addresses: list[str] = []
ready = threading.Event()
server = router.server(port=0, on_ready=lambda url: (addresses.append(url), ready.set()))
thread = threading.Thread(target=server.run)
thread.start()
ready.wait(30)

with tempfile.TemporaryDirectory() as folder:
    module = Path(folder) / "studio.py"
    socaity("stub", addresses[0], "-o", str(module))  # socaity stub URL -o studio.py
    for line in module.read_text().splitlines():
        if line.startswith(("class", "def")):
            print(line)

    sys.path.insert(0, folder)
    studio = importlib.import_module("studio")  # elsewhere: import studio
    styles = studio.paint("a cat", studio.Style(name="ink")).result(timeout=30)
    print(styles[1].name, styles[1].strength)
    print("fits:", socaity("stub", addresses[0], "--check", str(module)) == 0)
    studio.service.service.close()

server.should_exit = True
thread.join()
