"""The address of a server of the Open Inference Protocol: where it is, which model, and what is to be done in another way."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal
from urllib.parse import parse_qsl, unquote, urlsplit, urlunsplit

from socaity.exceptions import ConfigurationError
from socaity.transport import Target

__all__ = ["Address", "Compression", "read_address"]

Compression = Literal["gzip", "deflate"]

_SCHEMES = {
    "oip+http": ("http", False),
    "oip+https": ("https", False),
    "oip+grpc": ("http", True),
    "oip+grpcs": ("https", True),
    "http": ("http", False),
    "https": ("https", False),
}
# other clients write the slash of a name as it is
_MODEL = re.compile(r"(?P<base>.*?)/v2(?:/models/(?P<model>[^/].*?)(?:/versions/(?P<version>[^/]+))?)?/?")
_FLAGS = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}
_OPTIONS = ("binary", "compression", "stream")


@dataclass(frozen=True, slots=True, repr=False)
class Address:
    """`url` is an http(s) address without `/v2`, also where gRPC is spoken.

    `model` and `version` are empty unless the address names them. `binary` is None where the server is asked; `stream` has
    the names of models that are to be asked for a stream although the server does not say that they give one.
    """

    url: str
    is_grpc: bool
    model: str = ""
    version: str = ""
    binary: bool | None = None
    compression: Compression | None = None
    stream: frozenset[str] = frozenset()


def read_address(target: Target) -> Address:
    """What the URL of the target says. Raises ConfigurationError."""
    if target.scheme not in _SCHEMES:
        raise ConfigurationError(
            f"{target.scheme!r} is no scheme of the Open Inference Protocol (known: {', '.join(_SCHEMES)})"
        )
    scheme, is_grpc = _SCHEMES[target.scheme]
    parts = urlsplit(target.url)
    found = _MODEL.fullmatch(parts.path)
    path = parts.path.rstrip("/") if found is None else found["base"]
    if is_grpc and path:
        raise ConfigurationError(
            f"{target.place}: an address of gRPC has no path but /v2/models/NAME, which is optional"
        )
    model = version = ""
    if found is not None:
        model, version = unquote(found["model"] or ""), unquote(found["version"] or "")
    url = urlunsplit((scheme, parts.netloc, path, "", ""))
    binary, compression, stream = _read_options(target, parts.query)
    return Address(url, is_grpc, model, version, binary, compression, stream)


def _read_options(target: Target, query: str) -> tuple[bool | None, Compression | None, frozenset[str]]:
    binary: bool | None = None
    compression: Compression | None = None
    stream: frozenset[str] = frozenset()
    for name, value in parse_qsl(query, keep_blank_values=True):
        if name == "binary":
            if value.lower() not in _FLAGS:
                raise ConfigurationError(f"{target.place}: binary is true or false")
            binary = _FLAGS[value.lower()]
        elif name == "compression":
            if value == "gzip":
                compression = "gzip"
            elif value == "deflate":
                compression = "deflate"
            elif value != "none":
                raise ConfigurationError(f"{target.place}: compression is gzip, deflate or none")
        elif name == "stream":
            stream = frozenset(one for one in value.split(",") if one)
        else:  # its value, and even its name, may be a secret that was put there by mistake
            raise ConfigurationError(
                f"{target.place}: an option behind the question mark is not known (known: {', '.join(_OPTIONS)})"
            )
    return binary, compression, stream
