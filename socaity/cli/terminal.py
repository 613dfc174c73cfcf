"""What a service says, shown so that no terminal obeys it; and standard streams that may be closed."""

from __future__ import annotations

import os
import re
import sys

from ..exceptions import AuthenticationError

__all__ = ["complain", "harmless", "let_go_of_stdout", "open_closed_streams"]

# Cursor, colours, title, clipboard: all begin with a control character. The others turn the direction of what follows.
_HARMFUL = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]|\r(?!\n)"
)


def harmless(text: str) -> str:
    """`text` with what a terminal would obey as `\\u001b`; new lines and tabs stay."""
    return _HARMFUL.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def complain(name: str, text: object) -> None:
    """One message of a command to stderr; to whom a service asks who they are, how to say it here."""
    hint = ""
    if isinstance(text, AuthenticationError) and text.status == 401:
        hint = "\nA key or token is given with --api-key or SOCAITY_API_KEY."
    sys.stderr.write(f"socaity {name}: {harmless(str(text))}{hint}\n")


def open_closed_streams() -> None:
    """Where stdout or stderr is closed, as by `>&-`, Python has none.

    Then nobody wants messages; but a result that cannot be written is an error, as with other commands.
    """
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 - for as long as the process lives
    if sys.stdout is None:
        # cannot be written to: each attempt is an OSError
        sys.stdout = os.fdopen(os.open(os.devnull, os.O_RDONLY), "w", encoding="utf-8")


def let_go_of_stdout() -> None:
    """What could not be written is given up; the interpreter would try once more at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
