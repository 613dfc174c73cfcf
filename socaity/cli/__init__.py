"""The command `socaity`. Nothing is imported before Ctrl-C is seen to: that alone takes a while."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

_INTERRUPTED = 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run `socaity COMMAND …`. Exit codes: 0 done, 1 failed, 2 usage, 130 interrupted."""
    try:
        import sys

        from .commands import run_command

        return run_command(sys.argv[1:] if argv is None else argv)
    except KeyboardInterrupt:
        return _INTERRUPTED
    except Exception as exc:  # argparse, cut short, raises something else while it puts things back
        if isinstance(exc.__context__, KeyboardInterrupt):
            return _INTERRUPTED
        raise
