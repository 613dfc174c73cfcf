"""The commands of `socaity` and how each of them ends. The client's own are listed here; those of the server and of others are
found through entry points, so that the client need not know them."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from importlib.metadata import entry_points

from ..exceptions import ConfigurationError, SocaityError

__all__ = ["OWN", "command_names", "run_command"]

GROUP = "socaity.commands"
OWN = ("call", "completion", "endpoints", "jobs", "stub")
_HIDDEN = {"__complete": "complete"}
_SUMMARIES = {
    "call": "call an endpoint and print its result",
    "completion": "print the script that lets a shell complete commands and endpoints",
    "endpoints": "list what can be called on a service, or all about one endpoint",
    "jobs": "list the jobs of a service; wait for one, or stop it",
    "serve": "serve a folder of models, one model file or the router of a module",
    "stub": "write a typed Python module for a service",
    "top": "show a service live",
}
_SUCCEEDED, _FAILED, _USAGE = 0, 1, 2


def command_names() -> list[str]:
    """All that can stand after `socaity`."""
    return sorted({*OWN, *(point.name for point in entry_points(group=GROUP))})


def run_command(arguments: Sequence[str]) -> int:
    """Run `socaity COMMAND …` and return its exit code. Ctrl-C is for the caller."""
    from .terminal import open_closed_streams

    open_closed_streams()
    if not arguments or arguments[0] in ("-h", "--help"):
        sys.stdout.write(_help())
        return _SUCCEEDED if arguments else _USAGE
    if arguments[0] == "--version":
        from .. import __version__

        sys.stdout.write(f"socaity {__version__}\n")
        return _SUCCEEDED
    name, *rest = arguments
    run = _find(name)
    return _USAGE if run is None else _run(name, run, rest)


def _help() -> str:
    names = command_names()
    width = max(map(len, names))
    lines = [f"  {name:{width}}  {_SUMMARIES.get(name, '')}".rstrip() for name in names]
    return "\n".join(
        [
            "usage: socaity COMMAND …",
            "",
            "Call AI services, and serve your own.",
            "",
            "commands:",
            *lines,
            "",
            "What a command takes: socaity COMMAND --help. The version: socaity --version.",
            "",
        ]
    )


def _find(name: str) -> Callable[[list[str]], int] | None:
    """The function behind a command; None, and a word why, where there is none or it cannot be loaded."""
    module = name if name in OWN else _HIDDEN.get(name)
    if module is not None:
        run: Callable[[list[str]], int] = import_module(f".{module}", __package__).run
        return run
    points = entry_points(group=GROUP, name=name)
    if not points:
        _say_unknown(name)
        return None
    point = next(iter(points))
    try:
        loaded: Callable[[list[str]], int] = point.load()
    except (
        ModuleNotFoundError
    ) as exc:  # of loading it only: what the user's own code lacks is told by the command
        package = point.module.partition(".")[0]
        if (exc.name or package).partition(".")[0].startswith("socaity"):
            raise  # no extra brings what is missing
        what = "pip install 'socaity[server]'" if package == "socaity_server" else f"{package} needs it"
        sys.stderr.write(f"socaity {name}: {exc}; install what is missing: {what}\n")
        return None
    return loaded


def _run(name: str, run: Callable[[list[str]], int], arguments: list[str]) -> int:
    from .options import UsageError
    from .terminal import complain, let_go_of_stdout

    try:
        code = int(run(arguments))
        sys.stdout.flush()
        return code
    except SystemExit as exc:  # argparse has said why
        return exc.code if isinstance(exc.code, int) else _USAGE
    except BrokenPipeError:  # who read the output has enough
        let_go_of_stdout()
        return _SUCCEEDED
    except (UsageError, ConfigurationError) as exc:
        complain(name, exc)
        return _USAGE
    except SocaityError as exc:
        complain(name, exc)
        return _FAILED
    except OSError as exc:  # what was to be printed cannot be
        let_go_of_stdout()
        complain(name, exc)
        return _FAILED


def _say_unknown(name: str) -> None:
    known = command_names()
    near = difflib.get_close_matches(name, known, 1)
    hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)}"
    sys.stderr.write(f"socaity: there is no command {name!r}; {hint}\n")
