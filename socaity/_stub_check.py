"""Whether a module that `socaity stub` wrote still fits the live service."""

from __future__ import annotations

import ast
import difflib
from collections.abc import Iterator

from ._stub import write_stub
from .exceptions import ConfigurationError
from .protocol.description import ServiceDescription

__all__ = ["differences"]


def differences(source: str, service: ServiceDescription, *, place: str, file: str) -> list[str]:
    """The lines of a diff from the module to what would be written now; none where it fits.

    Layout, the order of imports, docstrings and the URL do not count. Raises ConfigurationError for what is no module.
    """
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError) as exc:
        raise ConfigurationError(f"{file} is not a Python module: {exc}") from exc
    url = _url_of(tree)
    if url is None:
        raise ConfigurationError(
            f"{file} was not written by `socaity stub`: it has no `service = socaity.remote(…)`"
        )
    written = list(_lines(tree))
    live = list(_lines(ast.parse(write_stub(service, url))))
    return [line.rstrip("\n") for line in difflib.unified_diff(written, live, file, place, n=2)]


def _url_of(tree: ast.Module) -> str | None:
    """The URL in `service = socaity.remote("…")`."""
    for node in tree.body:
        match node:
            case ast.Assign(
                targets=[ast.Name(id="service")],
                value=ast.Call(func=ast.Attribute(attr="remote"), args=[ast.Constant(value=str(url)), *_]),
            ):
                return url
    return None


def _lines(tree: ast.Module) -> Iterator[str]:
    for node in tree.body:
        if isinstance(node, (ast.Import, ast.ImportFrom, ast.If)) or _is_text(node):
            continue
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and _is_text(node.body[0]):
            node.body = node.body[1:] or [ast.Pass()]
        yield from ast.unparse(node).splitlines()
        yield ""


def _is_text(node: ast.stmt) -> bool:
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )
