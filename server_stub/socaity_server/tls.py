"""`TLSFiles`: a certificate and its key, checked before anything is served."""

from __future__ import annotations

import os
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from socaity.exceptions import ConfigurationError

__all__ = ["TLSFiles"]

_CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"
"""For TLS 1.2; those of 1.3 are all good."""


@dataclass(frozen=True, slots=True)
class TLSFiles:
    """Files in PEM form: the certificate with those that lead to its root, and its key, which may be in the same file."""

    certificate: str
    key: str

    @classmethod
    def of(
        cls, certificate: str | os.PathLike[str] | None, key: str | os.PathLike[str] | None
    ) -> TLSFiles | None:
        """None without both; raises ConfigurationError for files with which nothing can be served."""
        if not certificate and not key:
            return None
        if not certificate:
            raise ConfigurationError(
                "There is a key for TLS and no certificate; give it too: --tls-cert, or SOCAITY_TLS_CERT."
            )
        if not key and _has_no_key(Path(certificate)):
            raise ConfigurationError(
                f"The certificate {os.fspath(certificate)!r} for TLS comes without its key, which is not in that file; give it: "
                "--tls-key, or SOCAITY_TLS_KEY."
            )
        files = cls(os.fspath(certificate), os.fspath(key or certificate))
        files.make_context()
        return files

    def make_context(self) -> ssl.SSLContext:
        """For a server; TLS 1.2 at least. Raises ConfigurationError."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_ciphers(_CIPHERS)
        for path in (self.certificate, self.key):
            if not Path(path).is_file():
                raise ConfigurationError(f"There is no file {path!r} for TLS (--tls-cert, --tls-key).")
        try:
            context.load_cert_chain(self.certificate, self.key, password=_no_password)
        except _LockedError:
            raise ConfigurationError(
                f"The key {self.key!r} for TLS is locked with a password; unlock it: openssl pkey -in {self.key} -out FILE"
            ) from None
        except OSError as exc:  # ssl.SSLError is one
            why = exc.strerror if not isinstance(exc, ssl.SSLError) else exc.reason or "they are malformed"
            raise ConfigurationError(
                f"TLS cannot be served with {self.certificate!r} and {self.key!r} ({why}): files in PEM form are needed, and "
                "the key has to be that of the certificate."
            ) from exc
        return context

    def context(self, config: Any, default: Callable[[], ssl.SSLContext]) -> ssl.SSLContext:
        """For `uvicorn.Config(ssl_context_factory=…)`."""
        return self.make_context()


def _has_no_key(path: Path) -> bool:
    """A certificate in PEM form that is alone; what else may be wrong with the file, OpenSSL says."""
    try:
        text = path.read_bytes()
    except OSError:
        return False
    return b"-----BEGIN CERTIFICATE-----" in text and b"PRIVATE KEY-----" not in text


class _LockedError(Exception):
    """The key has a password."""


def _no_password() -> str:
    # without this OpenSSL would ask at the terminal
    raise _LockedError
