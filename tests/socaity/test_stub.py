"""From descriptions to typed modules: whatever a service says of itself, the module is valid and does nothing but declare."""

from __future__ import annotations

import ast
import importlib.util
import inspect
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typing_extensions import is_typeddict

import socaity
from socaity import ConfigurationError
from socaity._stub import is_stub, write_stub
from socaity._stub_check import differences
from socaity._stub_text import Names, class_name, docstring, literal, quoted
from socaity.protocol.description import (
    EndpointDescription,
    ParameterDescription,
    ServiceDescription,
    TensorDescription,
)
from socaity.testing import ScriptedTransport, number_events

from .doubles import DEADLINE

URL = "http://127.0.0.1:8000"
STRING = {"type": "string"}
FILE = {"type": "string", "x-media": "file"}


def described(*endpoints: EndpointDescription, title: str = "test") -> ServiceDescription:
    return ServiceDescription(title=title, endpoints=list(endpoints))


def one(*parameters: ParameterDescription, name: str = "ask", **more: Any) -> ServiceDescription:
    return described(EndpointDescription(name=name, path="/ask", parameters=list(parameters), **more))


def takes(schema: dict[str, Any], **more: Any) -> ServiceDescription:
    return one(ParameterDescription(name="value", json_schema=schema, **more))


def head(service: ServiceDescription) -> str:
    """The only function, from `def` to the colon, on one line."""
    (function,) = [
        node for node in ast.parse(write_stub(service, URL)).body if isinstance(node, ast.FunctionDef)
    ]
    return ast.unparse(
        ast.FunctionDef(**{**vars(function), "body": [ast.Pass()], "decorator_list": []})
    ).split("\n")[0]


def argument(schema: dict[str, Any], **more: Any) -> str:
    return head(takes(schema, **more)).removeprefix("def ask(value: ").removesuffix(") -> Any:")


def returned(schema: dict[str, Any], **more: Any) -> str:
    return head(one(returns=schema, **more)).removeprefix("def ask() -> ").removesuffix(":")


@pytest.mark.parametrize(
    ("schema", "expected"),
    [
        ({}, "Any"),
        (STRING, "Input[str]"),
        ({"type": "integer"}, "Input[int]"),
        ({"type": "number"}, "Input[float]"),
        ({"type": ["string", "null"]}, "Input[str | None]"),
        ({"anyOf": [{"type": "null"}, STRING, {"type": "integer"}]}, "Input[str | int | None]"),
        ({"enum": ["a", 1, None, True]}, "Input[Literal['a', 1, None, True]]"),
        ({"const": "x"}, "Input[Literal['x']]"),
        ({"enum": [0.5, 1]}, "Input[float]"),
        ({"enum": [[1]]}, "Any"),
        ({"enum": [1, -(2**70)]}, "Input[int]"),
        ({"type": "object", "properties": {"": STRING}}, "Input[Mapping[str, Any]]"),
        ({"type": "array", "items": STRING}, "Input[Inputs[str]]"),
        ({"type": "array", "items": {"type": "array", "items": STRING}}, "Input[Inputs[Inputs[str]]]"),
        ({"type": "array"}, "Input[Inputs[Any]]"),
        (FILE, "Input[File | str | socaity.Media]"),
        (
            {"type": "array", "prefixItems": [FILE, STRING], "minItems": 2, "maxItems": 2},
            "Input[tuple[Any, str]]",
        ),
        (
            {"type": "array", "prefixItems": [STRING, {"type": "integer"}], "minItems": 2, "maxItems": 2},
            "Input[tuple[str, int]]",
        ),
        ({"type": "object"}, "Input[Mapping[str, Any]]"),
        ({"type": "object", "additionalProperties": STRING}, "Input[Mapping[str, Input[str]]]"),
        ({"type": "string", "format": "binary"}, "Input[File]"),
        ({"type": "string", "contentEncoding": "base64", "x-media": "bytes"}, "Input[File]"),
        ({"type": "string", "x-media": "image"}, "Any"),
        ({"allOf": [STRING]}, "Input[str]"),
        ({"allOf": [STRING, {"minLength": 1}]}, "Any"),
        ({"$ref": "#/$defs/Nothing"}, "Any"),
        ({"$ref": "#/$defs/A", "$defs": {"A": {"$ref": "#/$defs/A"}}}, "Any"),
    ],
)
def test_parameter_has_the_type_of_its_schema(schema: dict[str, Any], expected: str) -> None:
    assert argument(schema) == expected


@pytest.mark.parametrize(
    ("schema", "expected"),
    [
        ({}, "Any"),
        ({"type": "null"}, "None"),
        ({"type": "array", "items": {"type": "integer"}}, "list[int]"),
        ({"type": "object", "additionalProperties": {"type": "number"}}, "dict[str, float]"),
        ({"type": "string", "format": "binary"}, "bytes"),
        (FILE, "socaity.Media"),
        ({"type": "array", "items": FILE}, "list[socaity.Media]"),
        ({"enum": ["a"]}, "Literal['a']"),
    ],
)
def test_result_has_the_type_of_its_schema(schema: dict[str, Any], expected: str) -> None:
    assert returned(schema) == expected
    assert returned(schema, streaming=True) == f"Iterable[{expected}]"


@pytest.mark.parametrize(
    ("schema", "default", "expected"),
    [
        ({"type": "integer"}, 4, "Input[int]=4"),
        ({"type": "integer"}, "four", "Input[int] | None=None"),
        ({"type": "integer"}, True, "Input[int] | None=None"),
        ({"type": "number"}, float("inf"), "Input[float]=float('inf')"),
        ({"enum": ["a", "b"]}, "b", "Input[Literal['a', 'b']]='b'"),
        ({"enum": ["a", "b"]}, "c", "Input[Literal['a', 'b']] | None=None"),
        ({"type": ["string", "null"]}, None, "Input[str | None]=None"),
        ({"type": "array", "items": STRING}, ["a"], "Input[Inputs[str]]=('a',)"),
        ({"type": "array", "items": STRING}, [1], "Input[Inputs[str]] | None=None"),
        ({"type": "object"}, {}, "Input[Mapping[str, Any]]={}"),
        ({"type": "object"}, {"a": 1}, "Input[Mapping[str, Any]] | None=None"),
        ({"type": "string", "format": "binary"}, "aGk=", "Input[File] | None=None"),
        ({}, None, "Any=None"),
    ],
)
def test_default_is_written_where_it_fits(schema: dict[str, Any], default: Any, expected: str) -> None:
    found = argument(schema, required=False, default=default)
    assert found.replace(" = ", "=") == expected


def test_arrays_of_batched_endpoints_are_numpy_arrays() -> None:
    x = ParameterDescription(name="x", tensor=TensorDescription(dtype="float32"))
    assert head(one(x, returns={"type": "array"}, batched=True)) == (
        "def ask(x: Input[npt.ArrayLike]) -> npt.NDArray[Any]:"
    )
    several = {"type": "object", "properties": {"a": {"type": "array"}, "b-c": {"type": "array"}}}
    assert head(one(x, returns=several, batched=True)).endswith("-> AskResult:")
    named = {"type": "object", "additionalProperties": {"type": "array", "items": {}}}
    for kind in ("batched", "direct"):
        assert head(one(x, returns=named, **{kind: True})).endswith("-> dict[str, npt.NDArray[Any]]:")
        unknown = {"anyOf": [{"type": "array", "items": {}}, named]}
        assert head(one(x, returns=unknown, **{kind: True})).endswith("-> Any:")


def test_one_text_for_a_model_is_a_text_and_its_results_are_arrays() -> None:
    text = ParameterDescription(name="text", tensor=TensorDescription(dtype="object", shape=[]))
    array = {"type": "array", "items": {}}
    assert head(one(text, returns=array, direct=True)) == "def ask(text: Input[str]) -> npt.NDArray[Any]:"
    assert head(one(text, returns=array, direct=True, batched=True)).startswith(
        "def ask(text: Input[npt.ArrayLike])"
    )
    assert head(one(returns={"type": "array", "items": STRING}, direct=True)) == "def ask() -> list[str]:"


def test_required_after_optional_is_given_by_name() -> None:
    parameters = [
        ParameterDescription(name="a", json_schema=STRING, required=False, default="x"),
        ParameterDescription(name="b", json_schema=STRING),
        ParameterDescription(name="rest", variadic=True, required=False),
    ]
    assert head(one(*parameters)) == "def ask(a: Input[str]='x', *, b: Input[str], **rest: Any) -> Any:"


# -- modules that run -------------------------------------------------------------------------------------------------


@pytest.fixture
def imported(tmp_path: Path) -> Iterator[Any]:
    names: list[str] = []

    def load(source: str) -> ModuleType:
        name = f"stub_under_test_{len(names)}"
        path = tmp_path / f"{name}.py"
        path.write_text(source, encoding="utf-8")
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        names.append(name)
        spec.loader.exec_module(module)
        return module

    yield load
    for name in names:
        del sys.modules[name]


NODE = {
    "type": "object",
    "properties": {
        "value": {"type": "integer"},
        "children": {"type": "array", "items": {"$ref": "#/$defs/Node"}, "default": []},
    },
    "required": ["value"],
}
WHOLE_NODE = {**NODE, "required": ["value", "children"]}  # of a result every key is there


def connected(module: Any, service: ServiceDescription, *events: tuple[str, Any]) -> ScriptedTransport:
    transport = ScriptedTransport(service.endpoints, number_events(*events))
    module.service.use("memory://test", transport=transport, progress=False)
    return transport


def test_recursive_objects_are_one_class_for_arguments_and_results(imported: Any) -> None:
    service = one(
        ParameterDescription(name="node", json_schema={"$ref": "#/$defs/Node", "$defs": {"Node": NODE}}),
        returns={"$ref": "#/$defs/Node", "$defs": {"Node": WHOLE_NODE}},
    )
    module = imported(write_stub(service, URL))
    assert head(service) == "def ask(node: Input[Node]) -> Node:"
    transport = connected(
        module, service, ("result", {"value": 1, "children": [{"value": 2, "children": []}]})
    )
    tree = module.Node(value=1, children=[module.Node(value=2)])
    assert module.ask(tree).result(DEADLINE) == tree
    assert transport.calls[0][1] == {"node": {"value": 1, "children": [{"value": 2, "children": []}]}}
    module.service.service.close()


def test_objects_of_one_name_and_two_forms_are_two_classes() -> None:
    def form(kind: str) -> dict[str, Any]:
        return {"title": "Box", "type": "object", "properties": {"x": {"type": kind}}, "required": ["x"]}

    service = described(
        *(
            EndpointDescription(name=name, path="/", returns=form(kind))
            for name, kind in [("a", "integer"), ("b", "string"), ("c", "integer")]
        )
    )
    source = write_stub(service, URL)
    assert "def a() -> Box:" in source
    assert "def b() -> Box_:" in source
    assert "def c() -> Box:" in source


@pytest.mark.parametrize(
    "properties",
    [
        {"class": STRING},
        {"a-b": STRING},
        {"_private": STRING},
        {"__mangled": STRING},
        {"str": STRING, "other": {"type": "string"}},
        {"Any": {}},
        {"ﬁ": STRING},
        {"maybe": {**STRING, "optional": True}},
        {" ": STRING, "\n\"'": STRING},
    ],
)
def test_odd_keys_make_a_typed_dict_that_runs(imported: Any, properties: dict[str, Any]) -> None:
    required = [name for name, part in properties.items() if "optional" not in part]
    shape = {"title": "Odd", "type": "object", "properties": properties, "required": required}
    service = one(ParameterDescription(name="value", json_schema=shape), returns=shape)
    module = imported(write_stub(service, URL))
    value = dict.fromkeys(required, "text")
    transport = connected(module, service, ("result", value))
    assert is_typeddict(module.Odd)
    assert module.ask(value).result(DEADLINE) == value
    assert transport.calls == [("ask", {"value": value})]
    module.service.service.close()


def test_module_needs_no_package_that_the_client_does_not_depend_on() -> None:
    shape = {
        "title": "Odd",
        "type": "object",
        "properties": {"a-b": STRING, "maybe": STRING},
        "required": ["a-b"],
    }
    array = ParameterDescription(name="x", tensor=TensorDescription(dtype="float32"))
    file = ParameterDescription(name="file", json_schema={"type": "string", "format": "binary"})
    source = write_stub(one(array, file, returns=shape, batched=True), URL)
    needed = {
        name.partition(".")[0]
        for statement in ast.parse(source).body  # what is behind `if TYPE_CHECKING` is not imported
        if isinstance(statement, ast.Import | ast.ImportFrom)
        for name in ([statement.module or ""] if isinstance(statement, ast.ImportFrom) else ["socaity"])
    }
    assert "typing_extensions" in needed
    pyproject = Path(__file__).parents[2] / "pyproject.toml"
    declared = tomllib.loads(pyproject.read_text(encoding="utf-8"))["project"]["dependencies"]
    packages = {re.split(r"[^\w-]", one)[0].replace("-", "_") for one in declared}
    assert needed <= {"socaity", *packages, *sys.stdlib_module_names}


@pytest.mark.parametrize(
    ("source", "is_ours"),
    [
        ("{stub}", True),
        ("# a licence\n\n# ruff: noqa\n{stub}", True),
        ("{stub}\nbroken (", True),
        ("", False),
        ("x = 'Written by `socaity stub` from the live service'\n", False),
        ("# Written by `socaity stub` from the live service\n", False),
        ('"""Not Written by `socaity stub` from the live service."""\n', False),
        ('"""Mine."""\n\n"""\nWritten by `socaity stub` from the live service"""\n', False),
        ("import os\n{stub}", False),
    ],
)
def test_only_what_was_written_is_written_over(source: str, is_ours: bool) -> None:
    stub = write_stub(described(title='A "quoted" \\ title """'), "http://h")
    assert is_stub(source.replace("{stub}", stub)) is is_ours


def test_names_that_python_has_taken_are_changed_here_and_kept_on_the_wire(imported: Any) -> None:
    names = ["class", "import", "a-b", "ask", "1st", "None", "_x", "__x", "ﬁ", "str", "a_b", "größe"]
    parameters = [ParameterDescription(name=name, json_schema={"type": "integer"}) for name in names]
    service = one(*parameters, name="str")
    module = imported(write_stub(service, URL))
    transport = connected(module, service, ("result", 1))
    given = list(inspect.signature(module.str_).parameters)
    assert given[:5] == ["class_", "import_", "a_b", "ask", "argument_1st"]
    assert module.str_(*range(len(names))).result(DEADLINE) == 1
    assert transport.calls == [("str", {name: number for number, name in enumerate(names)})]
    module.service.service.close()


def test_what_is_not_given_is_not_sent(imported: Any) -> None:
    service = one(
        ParameterDescription(name="a", json_schema={"type": "integer"}, required=False, default=4),
        ParameterDescription(name="b", json_schema={"type": "integer"}, required=False, default="unwritable"),
    )
    module = imported(write_stub(service, URL))
    transport = connected(module, service, ("result", 1))
    module.ask().result(DEADLINE)
    module.ask(b=None).result(DEADLINE)
    module.ask(a=4).result(DEADLINE)
    assert [arguments for _, arguments in transport.calls] == [{}, {}, {"a": 4}]
    module.service.service.close()


def test_functions_share_one_connection_that_can_be_moved(imported: Any) -> None:
    service = described(EndpointDescription(name="a", path="/a"), EndpointDescription(name="b", path="/b"))
    module = imported(write_stub(service, URL))
    first = connected(module, service, ("result", "first"))
    assert [module.a().result(DEADLINE), module.b().result(DEADLINE)] == ["first", "first"]
    assert module.a.endpoint.service is module.b.endpoint.service
    before = module.service.service
    connected(module, service, ("result", "second"))
    assert module.a().result(DEADLINE) == "second"
    assert len(first.calls) == 2
    before.close()
    module.service.service.close()


@pytest.mark.parametrize(
    ("now", "message"),
    [
        ([], "ask takes no 'value'; it is ask()"),
        ([("value", True), ("more", True)], "ask needs 'more'"),
        ([("worth", True)], "ask takes no 'value' and needs 'worth'"),
        ([("value", True), ("more", False)], None),
    ],
)
def test_first_use_says_what_does_not_fit(
    imported: Any, now: list[tuple[str, bool]], message: str | None
) -> None:
    module = imported(write_stub(takes(STRING), URL))
    live = one(*(ParameterDescription(name=name, json_schema=STRING, required=need) for name, need in now))
    connected(module, live, ("result", 1))
    if message is None:
        assert module.ask("a").result(DEADLINE) == 1
    else:
        with pytest.raises(ConfigurationError, match="written for another version") as caught:
            module.ask("a")
        assert message in str(caught.value)
    module.service.service.close()


# -- does it still fit ------------------------------------------------------------------------------------------------


def test_check_finds_every_change_and_nothing_else() -> None:
    before = takes({"type": "integer", "title": "Value"}, description="old words")
    source = write_stub(before, URL)

    def diff(service: ServiceDescription) -> list[str]:
        return differences(source, service, place="live", file="models.py")

    assert diff(before) == []
    assert diff(takes({"type": "integer"}, description="new words")) == []
    assert diff(ServiceDescription(title="another title", endpoints=before.endpoints)) == []
    for changed in (
        takes(STRING),
        takes({"type": "integer"}, required=False, default=1),
        one(before.endpoints[0].parameters[0], returns=STRING),
        one(before.endpoints[0].parameters[0], streaming=True),
        one(before.endpoints[0].parameters[0], name="tell"),
        described(*before.endpoints, EndpointDescription(name="other", path="/")),
    ):
        assert diff(changed)[:2] == ["--- models.py", "+++ live"]


# -- hostile descriptions ---------------------------------------------------------------------------------------------

texts = st.text(max_size=30) | st.sampled_from(
    [
        '"""\nimport os; os.system("touch /tmp/owned")\n"""',
        "'''",
        '\\"""',
        "x\\",
        '"',
        "a\nb",
        "a\r\rraise SystemExit",
        "x): pass\nraise SystemExit\ndef y(",
        "{boom}",
        "%s",
        "\u202e\u2066",
        "\ud800",
        "\x00",
        "__class__",
        "__debug__",
        "__builtins__",
        "service",
        "socaity",
        "Input",
        "None",
        "self",
        "#/$defs/X",
        "𝐝𝐞𝐟",
        "\x0c",
        "\u2028raise SystemExit",
    ]
)
scalars = st.none() | st.booleans() | st.integers() | st.floats() | texts
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3)
)
kinds = st.sampled_from(["string", "integer", "number", "boolean", "null", "array", "object", "other"])


def grow(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    several = st.lists(inner, max_size=3)
    return st.fixed_dictionaries(
        {},
        optional={
            "type": kinds | st.lists(kinds, max_size=2),
            "title": texts,
            "description": texts,
            "default": values,
            "enum": st.lists(scalars, max_size=3),
            "const": scalars,
            "items": inner,
            "prefixItems": several,
            "maxItems": st.integers(0, 3),
            "properties": st.dictionaries(texts, inner, max_size=3),
            "required": st.lists(texts, max_size=2),
            "additionalProperties": inner | st.booleans(),
            "anyOf": several,
            "oneOf": several,
            "allOf": several,
            "$ref": texts.map(lambda text: f"#/$defs/{text}") | texts,
            "$defs": st.dictionaries(texts, inner, max_size=2),
            "format": texts,
            "x-media": texts | st.sampled_from(["bytes", "image"]),
        },
    )


schemas = st.recursive(values | st.just({}), grow, max_leaves=12)
objects = schemas.map(lambda schema: schema if isinstance(schema, dict) else {"default": schema})
parameters = st.builds(
    ParameterDescription,
    name=texts,
    required=st.booleans(),
    default=values,
    json_schema=objects,
    description=st.none() | texts,
    variadic=st.booleans(),
    tensor=st.none() | st.just(TensorDescription(dtype="float32")),
    location=st.sampled_from(["body", "file"]),
)
endpoints = st.builds(
    EndpointDescription,
    name=texts,
    path=texts,
    doc=st.none() | texts,
    parameters=st.lists(parameters, max_size=3),
    returns=objects,
    streaming=st.booleans(),
    batched=st.booleans(),
)

_STATEMENTS = (
    ast.ImportFrom,
    ast.Import,
    ast.If,
    ast.Assign,
    ast.AnnAssign,
    ast.FunctionDef,
    ast.ClassDef,
    ast.Expr,
)
_CALLED = {"remote", "TypeVar", "TypedDict", "dataclass", "field", "endpoint", "float"}


@given(
    st.builds(described, st.just(EndpointDescription(name="x", path="/")), title=texts),
    st.lists(endpoints, max_size=3),
    texts,
)
def test_no_description_makes_code(
    service: ServiceDescription, more: list[EndpointDescription], url: str
) -> None:
    service.endpoints.extend(more)
    source = write_stub(service, url)
    source.encode()
    tree = ast.parse(source)
    compile(tree, "stub", "exec")
    functions = [node for node in tree.body if isinstance(node, ast.FunctionDef)]
    assert len(functions) == len(service.endpoints)
    assert all(isinstance(node, _STATEMENTS) for node in tree.body)
    for function in functions:
        *doc, last = function.body
        assert isinstance(last, ast.Raise)
        assert all(isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) for node in doc)
    for node in ast.walk(tree):
        assert not isinstance(
            node, (ast.Delete, ast.While, ast.For, ast.With, ast.Try, ast.JoinedStr, ast.Await)
        )
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            assert all(alias.name in source.partition("__all__")[0] for alias in node.names)
        if isinstance(node, ast.Call):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            assert called in _CALLED
    namespace: dict[str, Any] = {"__name__": "stub_of_hypothesis"}
    module = sys.modules["stub_of_hypothesis"] = ModuleType("stub_of_hypothesis")
    try:
        vars(module).update(namespace)
        exec(compile(tree, "stub", "exec"), vars(module))  # it runs, and its names are what it says
        assert all(hasattr(module, name) for name in vars(module)["__all__"])
        assert [type(vars(module)[node.name]) for node in functions] == [socaity.RemoteFunction] * len(
            functions
        )
    finally:
        del sys.modules["stub_of_hypothesis"]
    assert differences(source, service, place="live", file="stub") == []


@given(texts)
def test_docstring_says_what_it_was_given(text: str) -> None:
    source = f"def f():\n{docstring(text, '    ')}\n"
    (function,) = ast.parse(source.encode()).body
    assert isinstance(function, ast.FunctionDef)
    wanted = "\n".join(
        line.expandtabs(4).rstrip()
        for line in text.strip().replace("\r\n", "\n").replace("\r", "\n").split("\n")
    )
    assert inspect.cleandoc(ast.get_docstring(function, clean=False) or "") == inspect.cleandoc(wanted)


@given(texts)
def test_quoted_is_one_literal_on_one_line(text: str) -> None:
    assert ast.literal_eval(quoted(text)) == text
    assert quoted(text).isprintable()


@given(st.lists(texts, max_size=8))
def test_names_are_names_and_given_once(wanted: list[str]) -> None:
    names = Names({"taken"})
    found = [names.give(text, "fallback") for text in wanted]
    assert len({*found, "taken"}) == len(found) + 1
    for name in [*found, *map(class_name, wanted)]:
        compile(f"def f({name}=1): pass\nclass A: {name}: int = 1", "", "exec")


def test_only_scalars_have_literals() -> None:
    with pytest.raises(TypeError):
        literal([1])
