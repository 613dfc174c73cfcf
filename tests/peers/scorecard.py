"""Writes the tables of docs/open-inference-scorecard.md: `python -m tests.peers.scorecard` runs all programs against all servers.

Nothing is written that was not run. What stands outside the two markers of the page is left as it is.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import get_args

from .mlserver import MLServer
from .programs import PROGRAMS, Way, known_names
from .running import OurServer

PAGE = Path(__file__).parents[2] / "docs" / "open-inference-scorecard.md"
BEGIN, END = "<!-- begin: what was run -->", "<!-- end: what was run -->"
TITLES = {
    "triton_list": "tritonclient: what everyone does first",
    "kserve_list": "KServe SDK: what everyone does first",
    "triton_datatypes": "tritonclient: every datatype, four clients",
    "triton_more": "tritonclient: compression, mixed forms, parameters, classification",
    "triton_served": "tritonclient: metadata, versions, repository, statistics",
    "triton_streams": "tritonclient: streams",
    "triton_load": "tritonclient: cancelling, a full queue, failures",
    "triton_aio": "tritonclient: every question of both asynchronous clients",
    "grpc_rules": "gRPC: contents, sizes, health, reflection, deadlines",
    "raw": "HTTP: the wire format",
    "raw_refused": "HTTP: what must be refused",
    "generate": "HTTP: generate and its streams",
    "kserve_more": "KServe SDK: every datatype, errors",
    "mlserver_client": "MLServer: its client, and its types",
    "triton_auth": "tritonclient: tokens",
    "triton_tls": "tritonclient: TLS",
}
"""In the order of the page; of the first two every check is listed."""
LISTED = ("triton_list", "kserve_list")
ASKED_OF_BOTH = (*LISTED, "triton_datatypes", "triton_aio", "kserve_more", "mlserver_client")
"""The others need models that only our server has: a full queue, a generator with these inputs, a model that fails."""
OURS, MLSERVER = "socaity", "MLServer 1.7.1"
Found = Mapping[str, Mapping[str, bool | str]]
"""By program, by check."""


def run_all() -> Mapping[str, Found]:
    """By server. MLServer is asked only what it has the models for."""
    found: dict[str, dict[str, Mapping[str, bool | str]]] = {}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        for way in get_args(Way):
            with OurServer(_new(folder, way), way) as server:
                ours = {one.name: server.run(one) for one in PROGRAMS if one.way == way}
                found.setdefault(OURS, {}).update(ours)
        with MLServer(_new(folder, MLSERVER)) as theirs:
            found[MLSERVER] = {
                one.name: one.run(theirs.host, theirs.http_port, theirs.grpc_port)
                for one in PROGRAMS
                if one.name in ASKED_OF_BOTH
            }
    return found


def tables(found: Mapping[str, Found]) -> Iterator[str]:
    """The lines between the markers."""
    servers = list(found)
    yield from _row("", *servers)
    yield from _row("---", *["---:"] * len(servers))
    for program, title in TITLES.items():
        yield from _row(title, *[score(found[server].get(program, {})) for server in servers])
    for program in LISTED:
        yield ""
        yield f"## {TITLES[program]}"
        yield ""
        yield from _row("", *servers)
        yield from _row("---", *[":---:"] * len(servers))
        for check in known_names()[program]:
            marks = ["✓" if found[server][program].get(check) is True else "–" for server in servers]
            yield from _row(check, *marks)


def published(server: str) -> dict[str, str]:
    """What the page says of a server: its score by program."""
    lines = PAGE.read_text().partition(BEGIN)[2].splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    column = rows[0].index(server)
    by_title = {row[0]: row[column] for row in rows}
    return {program: by_title[title] for program, title in TITLES.items()}


def write(found: Mapping[str, Found]) -> None:
    """Replace what stands between the markers."""
    before, _, rest = PAGE.read_text().partition(BEGIN)
    after = rest.partition(END)[2]
    PAGE.write_text("\n".join([before + BEGIN, *tables(found), END + after]))


def score(checks: Mapping[str, bool | str]) -> str:
    """How many of the checks hold."""
    return f"{sum(one is True for one in checks.values())} of {len(checks)}" if checks else "–"


def _new(folder: Path, name: str) -> Path:
    (folder / name).mkdir()
    return folder / name


def _row(*cells: str) -> Iterator[str]:
    yield f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    write(run_all())
