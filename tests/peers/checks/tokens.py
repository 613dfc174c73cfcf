"""Tokens for a server that asks for them, made with the standard library alone.

SECRET, AUDIENCE and ISSUER are what `tests/peers/running.py` tells the server.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from typing import Any

SECRET = "a secret that is long enough to be one, of the peers"
AUDIENCE = "peers"
ISSUER = "https://issuer.test"


def token(secret: str = SECRET, algorithm: str = "HS256", **claims: Any) -> str:
    """Signed by HS256, good for an hour; `claims` replace or add some, and None leaves one out."""
    all_claims = {"sub": "ada", "aud": AUDIENCE, "iss": ISSUER, "exp": int(time.time()) + 3600, **claims}
    header = _part({"alg": algorithm, "typ": "JWT"})
    body = _part({name: value for name, value in all_claims.items() if value is not None})
    signature = hmac.new(secret.encode(), f"{header}.{body}".encode(), hashlib.sha256).digest()
    return f"{header}.{body}.{'' if algorithm == 'none' else _text(signature)}"


def _part(document: Any) -> str:
    return _text(json.dumps(document).encode())


def _text(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def wrong_tokens() -> dict[str, str]:
    """What must be refused, by what is wrong with it; each is a value of the header `authorization`."""
    good = token()
    return {
        "expired": f"Bearer {token(exp=int(time.time()) - 3600)}",
        "not yet valid": f"Bearer {token(nbf=int(time.time()) + 3600)}",
        "without an end": f"Bearer {token(exp=None)}",
        "signed with another key": f"Bearer {token('another secret that is long enough to be one')}",
        "signed with no key": f"Bearer {token('')}",
        "for another audience": f"Bearer {token(aud='others')}",
        "for no audience": f"Bearer {token(aud=None)}",
        "of another issuer": f"Bearer {token(iss='https://elsewhere.test')}",
        "with the algorithm none": f"Bearer {token(algorithm='none')}",
        "with another algorithm": f"Bearer {token(algorithm='HS512')}",
        "with a changed signature": f"Bearer {good[:-4]}{'AAAA' if good[-4:] != 'AAAA' else 'BBBB'}",
        "without a signature": f"Bearer {good.rpartition('.')[0]}",
        "no token at all": "Bearer",
        "no token but a word": "Bearer word",
        "of another scheme": f"Basic {base64.b64encode(b'ada:secret').decode()}",
    }
