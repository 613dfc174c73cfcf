"""Public keys of key pairs, for tokens. The one file that needs `cryptography`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from socaity.exceptions import ConfigurationError

__all__ = ["need_cryptography", "read_jwk", "read_public_key"]

_LEAST_BITS = 2048
_CURVES = {"ES256": "secp256r1", "ES384": "secp384r1", "ES512": "secp521r1"}


def need_cryptography() -> None:
    """Raise ConfigurationError with the pip line where it is missing."""
    try:
        import cryptography  # noqa: F401
    except ImportError as exc:
        raise ConfigurationError(
            "Tokens that are signed with a key pair (RS…, PS…, ES…, EdDSA) need: pip install 'socaity[auth]'"
        ) from exc


def read_public_key(pem: str, algorithms: Sequence[str]) -> Any:
    """The key of a PEM text (a public key or a certificate), for the `algorithms` that take key pairs.

    Raises ConfigurationError for a private key, one that is too short, and one that fits none of them.
    """
    need_cryptography()
    from cryptography import x509
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    if "PRIVATE KEY" in pem:
        raise ConfigurationError(
            "AUTH_PUBLIC_KEY is a private key: give the public one, and keep that from the server."
        )
    try:
        data = pem.encode()
        if "BEGIN CERTIFICATE" in pem:
            key: Any = x509.load_pem_x509_certificate(data).public_key()
        else:
            key = load_pem_public_key(data)
    except (ValueError, UnsupportedAlgorithm) as exc:
        raise ConfigurationError("AUTH_PUBLIC_KEY is no public key or certificate in PEM form.") from exc
    wanted = [name for name in algorithms if not name.startswith("HS")]
    if not all(fits(key, name) for name in wanted):
        raise ConfigurationError(
            f"The key in AUTH_PUBLIC_KEY does not fit AUTH_ALGORITHM ({', '.join(wanted)}): RSA of {_LEAST_BITS} bits or more "
            "for RS and PS, the curve of its size for ES, Ed25519 or Ed448 for EdDSA."
        )
    return key


def fits(key: Any, algorithm: str) -> bool:
    """Whether a public key checks tokens of that algorithm, and is long enough."""
    from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa

    if isinstance(key, rsa.RSAPublicKey):
        return algorithm[:2] in ("RS", "PS") and key.key_size >= _LEAST_BITS
    if isinstance(key, ec.EllipticCurvePublicKey):
        return key.curve.name == _CURVES.get(algorithm)
    return algorithm == "EdDSA" and isinstance(key, ed25519.Ed25519PublicKey | ed448.Ed448PublicKey)


def read_jwk(jwk: Any) -> tuple[str | None, str | None, str, Any] | None:
    """Id, algorithm, kind and key of an entry of a key set; None for what checks no signatures: secrets, keys for encryption,
    kinds that are not known, and keys that are too short."""
    import jwt
    from cryptography.exceptions import UnsupportedAlgorithm

    if not isinstance(jwk, dict) or jwk.get("use", "sig") != "sig":
        return None
    kind, kid, alg = jwk.get("kty"), jwk.get("kid"), jwk.get("alg")
    operations = jwk.get("key_ops", ["verify"])
    if kind not in ("RSA", "EC", "OKP") or not isinstance(operations, list) or "verify" not in operations:
        return None
    public = {name: value for name, value in jwk.items() if name not in _PRIVATE}
    named = alg if isinstance(alg, str) else None
    try:
        key = jwt.PyJWK(public, algorithm=named or _usual(public)).key
    except (jwt.PyJWTError, UnsupportedAlgorithm, NotImplementedError, ValueError, TypeError):
        return None  # "none" is not implemented
    usable = named or _usual(public)
    if usable is None or not fits(key, usable):
        return None
    return (kid if isinstance(kid, str) else None, named, kind, key)


_PRIVATE = frozenset({"d", "p", "q", "dp", "dq", "qi", "oth", "k"})


def _usual(jwk: dict[str, Any]) -> str | None:
    if jwk["kty"] == "RSA":
        return "RS256"
    if jwk["kty"] == "OKP":
        return "EdDSA"
    return {"P-256": "ES256", "P-384": "ES384", "P-521": "ES512"}.get(str(jwk.get("crv")))
