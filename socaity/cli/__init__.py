"""The command `socaity`. The client's own commands are listed here; those of the server and of others are found through
entry points, so that the client need not know them."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from importlib.metadata import entry_points

from ..exceptions import ConfigurationError, SocaityError

GROUP = "socaity.commands"
OWN = ("call", "completion", "endpoints", "jobs", "stub")
_HIDDEN = {"__complete": "complete"}
_SUCCEEDED, _FAILED, _USAGE, _INTERRUPTED = 0, 1, 2, 130


def command_names() -> list[str]:
    """All that can stand after `socaity`."""
    return sorted({*OWN, *(point.name for point in entry_points(group=GROUP))})


def main(argv: Sequence[str] | None = None) -> int:
    """Run `socaity COMMAND …`. Exit codes: 0 done, 1 failed, 2 usage, 130 interrupted."""
    from .terminal import open_closed_streams

    open_closed_streams()
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("-h", "--help"):
        sys.stdout.write(f"usage: socaity {{{','.join(command_names())}}} …\n")
        return _SUCCEEDED if arguments else _USAGE
    if arguments[0] == "--version":
        from .. import __version__

        sys.stdout.write(f"socaity {__version__}\n")
        return _SUCCEEDED
    name, *rest = arguments
    try:
        run = _find(name)
        if run is None:
            return _unknown(name)
        return _run(name, run, rest)
    except ImportError as exc:
        sys.stderr.write(f"socaity {name}: {exc}; install the extra that it needs: socaity[server]\n")
        return _USAGE


def _find(name: str) -> Callable[[list[str]], int] | None:
    module = name if name in OWN else _HIDDEN.get(name)
    if module is not None:
        run: Callable[[list[str]], int] = import_module(f".{module}", __name__).run
        return run
    points = entry_points(group=GROUP, name=name)
    return next(iter(points)).load() if points else None


def _run(name: str, run: Callable[[list[str]], int], arguments: list[str]) -> int:
    from .options import UsageError
    from .terminal import complain, let_go_of_stdout

    try:
        code = int(run(arguments))
        sys.stdout.flush()
        return code
    except SystemExit as exc:  # argparse has said why
        return exc.code if isinstance(exc.code, int) else _USAGE
    except KeyboardInterrupt:
        return _INTERRUPTED
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


def _unknown(name: str) -> int:
    known = command_names()
    near = difflib.get_close_matches(name, known, 1)
    hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)}"
    sys.stderr.write(f"socaity: there is no command {name!r}; {hint}\n")
    return _USAGE
