"""The descriptors that are shipped are those of the .proto files."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorSet

ROOT = Path(__file__).parents[3]
FRONTENDS = ROOT / "server_stub/socaity_server/frontends"
PROTOCOL = ROOT / "socaity/protocol/openinference"


@pytest.mark.parametrize(
    ("folder", "binary"),
    [
        (PROTOCOL, PROTOCOL / "open_inference.binpb"),
        (FRONTENDS / "grpc/protos", FRONTENDS / "grpc/services.binpb"),
    ],
)
def test_descriptors_are_made_of_the_files(folder: Path, binary: Path, tmp_path: Path) -> None:
    files = sorted(str(file.relative_to(folder)) for file in folder.rglob("*.proto"))
    assert files
    made = tmp_path / "made.binpb"
    compiler = [sys.executable, "-m", "grpc_tools.protoc", "-I", str(folder), f"--descriptor_set_out={made}"]
    done = subprocess.run([*compiler, *files], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    shipped = FileDescriptorSet.FromString(binary.read_bytes())
    assert shipped == FileDescriptorSet.FromString(made.read_bytes()), "run: make protos"
