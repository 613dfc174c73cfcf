"""`socaity stub`: the description of a service as a typed Python module."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from ._signature import gives_arrays
from ._stub_schema import default_text
from ._stub_text import Names, docstring, quoted
from ._stub_types import StubTypes
from .protocol.description import EndpointDescription, ParameterDescription, ServiceDescription
from .protocol.schemas import SchemaWalk

__all__ = ["is_stub", "write_stub"]

_MARK = "Written by `socaity stub` from the live service"
_DOCSTRING = re.compile(r'(?:\s|#[^\n]*\n)*"""(.*?)(?<!\\)"""', re.DOTALL)

_WIDTH = 100
_IN_USE = frozenset(
    {
        "Any",
        "Callable",
        "False",
        "File",
        "IO",
        "Input",
        "Inputs",
        "Iterable",
        "Job",
        "JobGroup",
        "JobReference",
        "Literal",
        "Mapping",
        "None",
        "NotImplementedError",
        "NotRequired",
        "PathLike",
        "Sequence",
        "TYPE_CHECKING",
        "True",
        "TypeAlias",
        "TypeVar",
        "TypedDict",
        "_T",
        "annotations",
        "bool",
        "bytearray",
        "bytes",
        "dataclass",
        "dict",
        "field",
        "float",
        "int",
        "list",
        "memoryview",
        "npt",
        "object",
        "service",
        "socaity",
        "str",
        "tuple",
    }
)
"""Names that the module itself uses; an endpoint or class that is called so gets an underscore."""


def is_stub(source: str) -> bool:
    """Whether a module was written by `write_stub`, and may be written over: its docstring says so at the beginning of a line."""
    found = _DOCSTRING.match(source)
    return found is not None and any(line.startswith(_MARK) for line in found[1].splitlines())


def write_stub(service: ServiceDescription, url: str) -> str:
    """The source of a module with a function for every endpoint. It type-checks strictly and runs; importing it connects
    to nothing. Nothing that the service says of itself can become code."""
    names = Names(_IN_USE)
    endpoints = sorted(service.endpoints, key=lambda one: one.name)
    functions = [names.give(one.name, "endpoint") for one in endpoints]
    types = StubTypes(names, _IN_USE)
    bodies = [_function(name, endpoint, types) for name, endpoint in zip(functions, endpoints, strict=True)]
    # a type that was looked at may not have been taken
    uses = types.uses & _names_in("\n".join([*types.definitions, *bodies]))
    exported = sorted(["service", *functions, *types.class_names])
    parts = [
        docstring(
            f"The functions of {service.title}, typed.\n\n{_MARK}; write it anew when that changes. "
            "A call gives a Job at once.\nNothing connects before the first call. "
            "`service.use(url)` sends the calls elsewhere."
        ),
        "from __future__ import annotations",
        _imports(uses),
        "\n".join(["__all__ = [", *(f"    {quoted(name)}," for name in exported), "]"]),
        f"service = socaity.remote({quoted(url)}, send_defaults=False)",
        *_aliases(uses),
    ]
    source = "\n\n".join(part for part in parts if part)
    return "\n\n\n".join([source, *types.definitions, *bodies]) + "\n"


def _names_in(source: str) -> set[str]:
    """The names that are used, also in the types of a TypedDict, which are text."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Name):
            found.add(node.id)
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "TypedDict":
            for value in node.args[1].values if isinstance(node.args[1], ast.Dict) else ():
                if isinstance(value, ast.Constant):
                    found |= _names_in(str(value.value))
    return found


def _imports(uses: set[str]) -> str:
    abc = sorted(uses & {"Iterable", "Mapping"} | ({"Sequence"} if "Inputs" in uses else set()))
    typing = uses & {"Any", "Literal"}
    runs = []
    if "File" in uses:
        runs.append("from os import PathLike")
        typing |= {"IO", "TypeAlias"}
    if "Input" in uses:
        typing |= {"TypeAlias", "TypeVar"}
    if "npt" in uses:
        typing.add("TYPE_CHECKING")
    if abc:
        runs.insert(0, f"from collections.abc import {', '.join(abc)}")
    if "dataclass" in uses:
        made = [name for name in ("dataclass", "field") if name in uses]
        runs.insert(1 if abc else 0, f"from dataclasses import {', '.join(made)}")
    if typing:
        order = sorted(typing, key=lambda name: (name != name.upper(), name))
        runs.append(f"from typing import {', '.join(order)}")
    ours = ["import socaity"]
    if "Input" in uses:
        ours.append(f"from socaity import Job, {'JobGroup, ' if 'Inputs' in uses else ''}JobReference")
    if "TypedDict" in uses:
        # pydantic, which checks the results, wants this one on Python 3.11
        shown = ["NotRequired", "TypedDict"] if "NotRequired" in uses else ["TypedDict"]
        ours.append(f"from typing_extensions import {', '.join(shown)}")
    text = "\n".join([*runs, "", *ours] if runs else ours)
    if "npt" in uses:
        text += "\n\nif TYPE_CHECKING:\n    import numpy.typing as npt"
    return text


def _aliases(uses: set[str]) -> Iterator[str]:
    if "Input" in uses:
        yield '_T = TypeVar("_T")'
        yield (
            "Input: TypeAlias = _T | Job[_T] | JobReference\n"
            '"""An argument: a value, or the job that will give it."""'
        )
    if "Inputs" in uses:
        yield (
            "Inputs: TypeAlias = Sequence[Input[_T]] | JobGroup[_T]\n"
            '"""A list as an argument: of values and jobs, or the group of all its jobs."""'
        )
    if "File" in uses:
        yield (
            "File: TypeAlias = bytes | bytearray | memoryview | PathLike[str] | IO[bytes]\n"
            '"""Bytes, a path or an open file."""'
        )


# -- functions --------------------------------------------------------------------------------------------------------


def _function(name: str, endpoint: EndpointDescription, types: StubTypes) -> str:
    parameters, renamed = _parameters(endpoint, types)
    returned = _returned(endpoint, types)
    marked = "@service"
    if name != endpoint.name or renamed:
        marked = f"@service.endpoint({quoted(endpoint.name)}"
        if renamed:
            marked += f", parameters={{{', '.join(f'{quoted(a)}: {quoted(b)}' for a, b in renamed.items())}}}"
        marked += ")"
    head = f"def {name}({', '.join(parameters)}) -> {returned}:"
    if len(head) > _WIDTH:
        head = "\n".join([f"def {name}(", *(f"    {one}," for one in parameters), f") -> {returned}:"])
        if parameters and parameters[-1].startswith(
            "**"
        ):  # Python allows a comma there, some formatters do not
            head = head.replace(f"    {parameters[-1]},", f"    {parameters[-1]}")
    lines = [marked, head]
    if doc := _doc(endpoint):
        lines.append(docstring(doc, "    "))
    lines.append("    raise NotImplementedError")
    return "\n".join(lines)


def _parameters(endpoint: EndpointDescription, types: StubTypes) -> tuple[list[str], dict[str, str]]:
    """The parameters as source, in the order of the live signature, and the names at the service of those renamed."""
    names = Names({"self"})
    positional: list[str] = []
    by_name: list[str] = []
    rest: list[str] = []
    renamed: dict[str, str] = {}
    optional_seen = False
    for one in endpoint.parameters:
        if one.variadic:
            if not rest:
                rest.append(
                    f"**{names.give(one.name, 'others')}: {types.argument(one.json_schema, one.name)}"
                )
            continue
        name = names.give(one.name, "argument")
        if name != one.name:
            renamed[name] = one.name
        annotation, default = _parameter(one, endpoint, types)
        text = f"{name}: {annotation}" + ("" if default is None else f" = {default}")
        (by_name if one.required and optional_seen else positional).append(text)
        optional_seen = optional_seen or not one.required
    return [*positional, *(["*", *by_name] if by_name else []), *rest], renamed


def _parameter(
    one: ParameterDescription, endpoint: EndpointDescription, types: StubTypes
) -> tuple[str, str | None]:
    hint = f"{endpoint.name} {one.name}"
    if one.tensor is not None:
        is_text = one.tensor.dtype == "object" and one.tensor.shape == [] and not endpoint.batched
        annotation = types.argument({"type": "string"}, hint) if is_text else types.tensor()
    elif one.location == "file":
        annotation = types.argument({"type": "string", "format": "binary"}, hint)
    else:
        annotation = types.argument(one.json_schema, hint)
    if one.required:
        return annotation, None
    is_plain = one.tensor is None and one.location != "file"
    default = default_text(one.default, one.json_schema, SchemaWalk(one.json_schema)) if is_plain else None
    if default is None or default == "None":
        default = "None"
        if annotation != "Any" and "None" not in annotation.removesuffix("]").split(" | "):
            annotation = f"{annotation} | None"
    return annotation, default


def _returned(endpoint: EndpointDescription, types: StubTypes) -> str:
    hint = f"{endpoint.name} result"
    if gives_arrays(endpoint):
        value = types.arrays(endpoint.returns, hint)
    else:
        value = types.value(endpoint.returns, hint)
    if endpoint.streaming:
        types.uses.add("Iterable")
        return f"Iterable[{value}]"
    return value


def _doc(endpoint: EndpointDescription) -> str:
    told = [
        f"    {one.name}: {' '.join(one.description.split())}"
        for one in endpoint.parameters
        if one.description and one.description.strip()
    ]
    doc = (endpoint.doc or "").strip()
    if not told:
        return doc
    return "\n".join([doc or f"The endpoint {endpoint.name}.", "", "Args:", *told])
