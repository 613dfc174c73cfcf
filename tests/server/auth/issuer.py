"""What issues tokens in tests: keys of every kind, tokens made with them, and the key set that publishes them."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from functools import cache
from typing import Any

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

SECRET = "a secret of the tests that has more than sixty-four bytes, so that every HS algorithm likes it"
ALGORITHMS = ("HS256", "HS384", "HS512", "RS256", "PS384", "RS512", "ES256", "ES384", "ES512", "EdDSA")
_CURVES = {"ES256": ec.SECP256R1, "ES384": ec.SECP384R1, "ES512": ec.SECP521R1}


def private_key(algorithm: str, name: str = "one") -> Any:
    """A key for an algorithm of key pairs; another one for each name."""
    return _private_key(algorithm, name)


@cache
def _private_key(algorithm: str, name: str) -> Any:
    if algorithm[:2] in ("RS", "PS"):
        return rsa.generate_private_key(65537, 2048)
    if algorithm in _CURVES:
        return ec.generate_private_key(_CURVES[algorithm]())
    return ed25519.Ed25519PrivateKey.generate()


def public_pem(algorithm: str, name: str = "one") -> str:
    """The public half, as a file holds it."""
    return (
        private_key(algorithm, name)
        .public_key()
        .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
        .decode()
    )


def make_token(
    algorithm: str = "HS256",
    *,
    key: Any = None,
    headers: dict[str, Any] | None = None,
    lasts: float = 600.0,
    without: tuple[str, ...] = (),
    **claims: Any,
) -> str:
    """A token of alice, good for `lasts` seconds; `claims` replace or add to what it says."""
    said = {"sub": "alice", "exp": int(time.time() + lasts), **claims}
    for name in without:
        said.pop(name)
    if key is None:
        key = SECRET if algorithm.startswith("HS") else private_key(algorithm)
    return jwt.encode(said, key, algorithm=algorithm, headers=headers)


def forge_hs256(claims: dict[str, Any], key: bytes, **header: Any) -> str:
    """An HS256 token signed with anything at all, also with a public key, which no library would do."""
    head = _part({"alg": "HS256", "typ": "JWT", **header})
    body = _part(claims)
    signature = hmac.new(key, f"{head}.{body}".encode(), hashlib.sha256).digest()
    return f"{head}.{body}.{_encode(signature)}"


def unsigned(claims: dict[str, Any], *, algorithm: str = "none") -> str:
    """A token that nobody has signed."""
    return f"{_part({'alg': algorithm, 'typ': 'JWT'})}.{_part(claims)}."


def key_set(*keys: tuple[str, str], **more: Any) -> dict[str, Any]:
    """The key set (JWKS) with keys of (algorithm, name), each under its name as `kid`."""
    published = []
    for algorithm, name in keys:
        kind = jwt.get_algorithm_by_name(algorithm)
        jwk = json.loads(kind.to_jwk(private_key(algorithm, name).public_key()))
        published.append({**jwk, "kid": name, "use": "sig", "alg": algorithm, **more})
    return {"keys": published}


def _part(value: dict[str, Any]) -> str:
    return _encode(json.dumps(value, separators=(",", ":")).encode())


def _encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
