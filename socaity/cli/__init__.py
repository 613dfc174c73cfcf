"""The command `socaity`: its subcommands are found through entry points, so that the client need not know the server."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.metadata import entry_points

from ..exceptions import SocaityError

GROUP = "socaity.commands"
_SUCCEEDED, _FAILED, _USAGE, _INTERRUPTED = 0, 1, 2, 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run `socaity COMMAND …`. Exit codes: 0 done, 1 failed, 2 usage, 130 interrupted."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    commands = {point.name: point for point in entry_points(group=GROUP)}
    if not arguments or arguments[0] in ("-h", "--help"):
        sys.stdout.write(f"usage: socaity {{{','.join(sorted(commands))}}} …\n")
        return _SUCCEEDED if arguments else _USAGE
    name, *rest = arguments
    if name not in commands:
        sys.stderr.write(f"socaity: there is no command {name!r} (known: {', '.join(sorted(commands))})\n")
        return _USAGE
    try:
        return int(commands[name].load()(rest))
    except KeyboardInterrupt:
        return _INTERRUPTED
    except ImportError as exc:
        sys.stderr.write(f"socaity {name}: {exc}; install the extra that it needs: socaity[server]\n")
        return _USAGE
    except SocaityError as exc:
        sys.stderr.write(f"socaity {name}: {exc}\n")
        return _FAILED
