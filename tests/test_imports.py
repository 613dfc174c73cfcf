"""What the import contracts cannot say: one file imports httpx, and importing does nothing."""

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TRANSPORTS = ROOT / "transports" / "socaity_transports"
WINGS = {
    "socaity": ROOT / "socaity",
    "socaity_transports": TRANSPORTS,
    "socaity_server": ROOT / "server_stub" / "socaity_server",
}


def imported_modules(path: Path) -> Iterator[str]:
    """Absolute imports of a file, as dotted names; `from a import b` gives `a.b`."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def run_python(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout


def test_only_one_transport_file_imports_httpx() -> None:
    importers = {
        str(path.relative_to(TRANSPORTS))
        for path in TRANSPORTS.rglob("*.py")
        if any(name.split(".")[0] == "httpx" for name in imported_modules(path))
    }
    assert importers <= {"_httpx.py"}


@pytest.mark.parametrize("wing", WINGS)
def test_no_wing_imports_a_private_name_of_another(wing: str) -> None:
    private = re.compile(rf"(?!{wing}\.)socaity\w*\.(\w+\.)*_[a-z]")
    found = {
        f"{path.relative_to(ROOT)}: {name}"
        for path in WINGS[wing].rglob("*.py")
        for name in imported_modules(path)
        if private.match(name)
    }
    assert found == set()


def test_the_contract_names_every_adapter() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]
    [layers] = [contract["layers"] for contract in contracts["contracts"] if contract["type"] == "layers"]
    adapters = {path.stem for path in TRANSPORTS.iterdir() if path.suffix == ".py" or path.is_dir()}
    public = {name for name in adapters if not name.startswith("_")}
    assert public <= set(re.findall(r"\w+", layers[0]))


def test_import_starts_no_thread_and_loads_no_http_library() -> None:
    code = """
import sys, threading
import socaity
print(threading.active_count(), sorted({'httpx', 'websockets', 'numpy', 'fastapi'} & set(sys.modules)))
"""
    assert run_python(code).strip() == "1 []"
