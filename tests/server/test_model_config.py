"""`model_config.yaml`: what it may say, and how mistakes in it are reported."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from socaity.exceptions import ConfigurationError
from socaity_server.config_file import MAX_BYTES
from socaity_server.config_keys import parse_model_config, read_model_config
from socaity_server.model_config import BreakerConfig, ModelConfig, PadConfig
from socaity_server.runtimes.base import TensorSpec

EVERYTHING = """
name: digits
version: 1.10
description: Handwritten digits.
backend: onnx
file: files/digits.onnx
sha256: "{sha}"
device: cpu
arguments: {{graph_optimization: all, level: 3, names: [a, null, true, 0.5]}}
inputs:
  - {{name: x, dtype: float32, shape: [-1, 64]}}
  - {{name: y, dtype: string, shape: [null, "?"]}}
outputs:
  - {{name: z, dtype: int64, shape: [-1]}}
batching:
  enabled: true
  max_batch_size: 64
  max_batch_wait: 0.002
  preferred_batch_sizes: [32, 16]
  rush_batch_size: 128
  pad: {{axis: 1, to: [128, 64], value: -1, inputs: [y], outputs: [z], waste: 0.25}}
queue_size: 100
queue_bytes: 1000000
instances: 2
threads: 1
execution: process
timeout: 1.5
warmup: no
idempotent: false
circuit_breaker: {{failure_rate: 0.3, minimum_calls: 5, slow_seconds: 1}}
"""

SEED = """
model:
  name: RF_10
  version: "1.0.0"
  description: free text
  backend: sklearn
  caching: false
  model_args:
    model_file: model.pkl
    device: cpu
  input:
    type: array
    shape: [-1, 5]
    dtype: string ## a comment
  output:
    type: array
    shape: [-1, 1]
    dtype: integer
  preferred_batch_size: [16, 128, 64]
  max_batch_delay_ms: 10
  rush_batch_size: 256
"""


def error_of(text: str) -> str:
    with pytest.raises(ConfigurationError) as caught:
        parse_model_config(text, file="m.yaml")
    return str(caught.value)


def test_every_key_is_read() -> None:
    config = parse_model_config(EVERYTHING.format(sha="AB" * 32))
    assert config == ModelConfig(
        name="digits",
        version="1.10",
        description="Handwritten digits.",
        backend="onnx",
        file="files/digits.onnx",
        sha256="ab" * 32,
        device="cpu",
        arguments={"graph_optimization": "all", "level": 3, "names": ["a", None, True, 0.5]},
        inputs=(TensorSpec("x", "float32", (None, 64)), TensorSpec("y", "object", (None, None))),
        outputs=(TensorSpec("z", "int64", (None,)),),
        batched=True,
        max_batch_size=64,
        max_batch_wait=0.002,
        rush_batch_size=128,
        preferred_batch_sizes=(16, 32),
        pad=PadConfig(axis=1, to=(64, 128), value=-1.0, inputs=("y",), outputs=("z",), waste=0.25),
        queue_size=100,
        queue_bytes=1_000_000,
        instances=2,
        threads=1,
        execution="process",
        timeout=1.5,
        warmup=False,
        idempotent=False,
        circuit_breaker=BreakerConfig(failure_rate=0.3, minimum_calls=5, slow_seconds=1.0),
    )


def test_every_key_is_optional() -> None:
    for text in ("", "# nothing\n", "---\n", "~", "name:\ntimeout: null\nmodel: {}\nbatching: {}\n"):
        assert parse_model_config(text) == ModelConfig()


def test_the_keys_of_the_first_model_server_are_read() -> None:
    expected = ModelConfig(
        name="RF_10",
        version="1.0.0",
        description="free text",
        backend="joblib",
        file="model.pkl",
        device="cpu",
        inputs=(TensorSpec("", "object", (None, 5)),),
        outputs=(TensorSpec("", "int64", (None, 1)),),
        preferred_batch_sizes=(16, 64, 128),
        max_batch_size=128,
        max_batch_wait=0.01,
        rush_batch_size=256,
    )
    assert parse_model_config(SEED) == expected
    without_model = yaml.safe_dump(yaml.safe_load(SEED)["model"])
    assert parse_model_config(without_model) == expected


def test_a_python_class_of_the_first_model_server_becomes_arguments() -> None:
    config = parse_model_config(
        "model: {backend: python, model_args: {class: 'models.p.model:multiply', kwargs: {name: a, compile: false}}}"
    )
    assert config.backend == "python"
    assert config.arguments == {"class": "models.p.model:multiply", "kwargs": {"name": "a", "compile": False}}


def test_both_kinds_of_keys_may_be_mixed_unless_they_contradict() -> None:
    config = parse_model_config(
        "model: {name: a, preferred_batch_size: [8]}\nname: a\nbatching: {max_batch_size: 16}"
    )
    assert (config.name, config.preferred_batch_sizes, config.max_batch_size) == ("a", (8,), 16)
    text = "model:\n  max_batch_delay_ms: 10\nbatching:\n  max_batch_wait: 0.02\n"
    assert error_of(text) == (
        "m.yaml:4: max_batch_wait contradicts max_batch_delay_ms in line 2 (0.02, 0.01); keep one of them."
    )
    text = "arguments: {class: A}\nmodel_args: {class: B}"
    assert "m.yaml:2: class contradicts class in line 1" in error_of(text)


def test_the_breaker_and_the_batching_can_be_switched_off() -> None:
    config = parse_model_config("circuit_breaker: false\nbatching: off")
    assert config.circuit_breaker == BreakerConfig(enabled=False)
    assert config.batched is False
    assert parse_model_config("circuit_breaker: true").circuit_breaker == BreakerConfig()


def test_a_version_says_only_what_is_different(tmp_path: Path) -> None:
    base = parse_model_config("timeout: 5\narguments: {a: 1, b: 1}\nbatching: {max_batch_size: 8}")
    file = tmp_path / "model_config.yaml"
    file.write_text("arguments: {b: 2}\nthreads: 2")
    config = read_model_config(file, base=base)
    assert (config.timeout, config.threads, config.max_batch_size) == (5.0, 2, 8)
    assert config.arguments == {"a": 1, "b": 2}


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("nmae: x", "1: unknown key 'nmae'; did you mean 'name'?"),
        (
            "\n\nbatching:\n  max_batch_sizes: 3",
            "4: unknown key 'max_batch_sizes'; did you mean 'max_batch_size'?",
        ),
        ("max_batch_size: 3", "1: unknown key 'max_batch_size'"),
        ("zzz: 1", "1: unknown key 'zzz' (known: allow_nan, arguments, backend, "),
        ("circuit_breaker: {wndow: 3}", "1: unknown key 'wndow'; did you mean 'window'?"),
        ("model: {model: {name: a}}", "1: unknown key 'model'"),
        ("name: a\nname: b", "2: the key 'name' is there twice (first in line 1)"),
        ("arguments:\n  a: 1\n  a: 2", "3: the key 'a' is there twice"),
        ("- name", "1: the file is a mapping of keys and values, not a list."),
        ("just text", "1: the file is a mapping of keys and values, not 'just text'."),
        ("[a]: 1", "1: a key is text, not a list or a mapping."),
        ("name: [a]", "1: name is text, not a list."),
        ("name: a/b", "1: a model's name has letters, digits, '_', '-' and '.', not 'a/b'."),
        ("name: ..", "1: a model's name has"),
        ("name: ''", "1: a model's name has"),
        ("backend: onx", "1: backend is one of joblib, onnx, python, torch, not 'onx'; did you mean 'onnx'?"),
        ("backend: jax", "1: the backend 'jax' is not supported; export the model to ONNX"),
        ("backend: TensorFlow", "1: the backend 'tensorflow' is not supported"),
        ("file: ../model.onnx", "1: file is a path below the folder of this file"),
        ("file: /model.onnx", "1: file is a path below"),
        ("file: a\\b.onnx", "1: file is a path below"),
        ("model_args: {model_file: a/../../b}", "1: model_file is a path below"),
        ("sha256: abc", "1: sha256 has 64 hexadecimal digits"),
        ("instances: 0", "1: instances is a whole number of 1 or more, not '0'."),
        ("instances: 1.5", "1: instances is a whole number of 1 or more, not '1.5'."),
        ("instances: '2'", "1: instances is a whole number of 1 or more, not '2'."),
        ("instances: true", "1: instances is a whole number"),
        ("instances: 1:30", "1: instances is a whole number"),
        ("instances: 99999999999", "1: instances is a whole number"),
        ("timeout: 0", "1: timeout is a number above 0, not '0'."),
        ("timeout: 2ms", "1: timeout is a number above 0, not '2ms'."),
        ("timeout: .inf", "1: timeout is a number above 0, not '.inf'."),
        ("timeout: .nan", "1: timeout is a number above 0"),
        ("batching: {max_batch_wait: -1}", "1: max_batch_wait is a number of 0 or more, not '-1'."),
        ("batching: 3", "1: batching is a mapping of keys and values, not '3'."),
        ("batching: {preferred_batch_sizes: []}", "1: preferred_batch_sizes is empty"),
        (
            "batching: {preferred_batch_sizes: [1, 0]}",
            "1: preferred_batch_sizes[1] is a whole number of 1 or more",
        ),
        (
            "batching:\n  max_batch_size: 8\n  preferred_batch_sizes: [16]",
            "3: preferred_batch_sizes has 16, which is above max_batch_size 8.",
        ),
        (
            "batching: {max_batch_size: 8, rush_batch_size: 4}",
            "1: rush_batch_size is at least max_batch_size 8, not 4.",
        ),
        ("batching: {pad: {waste: 2}}", "1: waste is a number of 0 or more, at most 1, not '2'."),
        ("circuit_breaker: {failure_rate: 0}", "1: failure_rate is a number above 0, at most 1, not '0'."),
        ("warmup: 1", "1: warmup is true or false, not '1'."),
        ("execution: fork", "1: execution is one of thread, process, not 'fork'."),
        ("caching: true", "1: caching is not built; remove the key."),
        ("input: {type: image}", "1: type is one of array, not 'image'."),
        ("input: {dtype: flaot}", "1: dtype is one of"),
        ("input: {shape: [0]}", "1: shape[0] is the length of an axis (-1, null or '?' for any), not '0'."),
        ("input: {shape: -1}", "1: shape is a list, not '-1'."),
        ("inputs: [{name: a}, {dtype: int8}]", "1: inputs[1] needs a name, as there are several."),
        ("inputs: [{name: a}, {name: a}]", "1: two inputs are called 'a'."),
        ("a: &x 1", "1: anchors and aliases (&, *) are not allowed"),
        ("name: *x", "1: anchors and aliases (&, *) are not allowed"),
        ("name: !!python/object/apply:os.system [ls]", "1: the tag"),
        ("name: a\n  - b: [", "2: is not YAML: "),
        ("name: 'a", "1: is not YAML: found unexpected end of stream"),
        ("a: 1\n---\nb: 1", "2: is not YAML: "),
        ("name: a\nversion: \x01", "2: is not YAML: "),
        ("arguments: " + "[" * 100, "1: values are nested deeper than 32"),
    ],
)
def test_a_mistake_is_reported_with_its_line(text: str, error: str) -> None:
    assert error_of(text).startswith(f"m.yaml:{error}")


def test_a_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "model_config.yaml"
    with pytest.raises(ConfigurationError, match="There is no configuration file"):
        read_model_config(file)
    file.write_bytes(b"name: a\nversion: \xff")
    with pytest.raises(ConfigurationError, match=r"model_config.yaml:2: is not UTF-8 text"):
        read_model_config(file)
    file.write_bytes(b"#" * (MAX_BYTES + 1))
    with pytest.raises(ConfigurationError, match="is larger than 1 MiB"):
        read_model_config(file)
    file.write_bytes(b"\xef\xbb\xbfname: a")
    assert read_model_config(file).name == "a"
    file.unlink()
    file.mkdir()
    with pytest.raises(ConfigurationError, match="There is no configuration file"):
        read_model_config(file)


KEYS = st.sampled_from(
    [
        *(
            "name",
            "version",
            "backend",
            "file",
            "sha256",
            "device",
            "arguments",
            "inputs",
            "outputs",
            "batching",
        ),
        *(
            "queue_size",
            "instances",
            "timeout",
            "warmup",
            "circuit_breaker",
            "execution",
            "model",
            "model_args",
        ),
        *(
            "input",
            "output",
            "preferred_batch_size",
            "max_batch_delay_ms",
            "pad",
            "shape",
            "dtype",
            "enabled",
        ),
        *("axis", "to", "class", "kwargs", "x"),
    ]
)
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.dates()
    | st.binary(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS | st.integers(), inner, max_size=4),
    max_leaves=8,
)


@settings(max_examples=300)
@given(st.dictionaries(KEYS, VALUES, max_size=5))
def test_any_values_are_read_or_refused(values: dict[str, object]) -> None:
    refused_or_read(yaml.safe_dump(values))


@settings(max_examples=300)
@given(
    st.text(alphabet=st.sampled_from("abn:- \n\t{}[]&*!|>'\"#%@,?~\\Ux0\u0085\ufeff"), max_size=60)
    | st.text()
)
def test_any_text_is_read_or_refused(text: str) -> None:
    refused_or_read(text)


def refused_or_read(text: str) -> None:
    try:
        config = parse_model_config(text, file="m.yaml")
    except ConfigurationError as exc:
        message = str(exc)
    else:
        assert isinstance(config, ModelConfig)
        return
    assert message.startswith("m.yaml:")
