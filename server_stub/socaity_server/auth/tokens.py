"""`TokenVerifier`: JSON Web Tokens (RFC 7519), checked as RFC 8725 wants it; what was verified is remembered until it expires."""

from __future__ import annotations

import hashlib
import re
import warnings
from collections.abc import Awaitable, Sequence
from typing import TYPE_CHECKING, Any

from socaity.exceptions import AuthenticationError, ConfigurationError

from .asymmetric import need_cryptography, read_public_key
from .principal import Principal

if TYPE_CHECKING:
    from .config import Auth
    from .key_set import KeySet

__all__ = ["TokenVerifier"]

_MOST_KNOWN = 10_000
_MOST_ROLES = 1000
_LONGEST_NAME = 512
_UNSPEAKABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
"""What would end a line of a log, or has no form as bytes."""


class TokenVerifier:
    """Tokens signed with one of `algorithms`, each of which has exactly one kind of key here: a token does not choose."""

    def __init__(
        self,
        algorithms: Sequence[str],
        *,
        secret: str = "",
        public_key: str = "",
        key_set: KeySet | None = None,
        audience: Sequence[str] = (),
        issuer: str | None = None,
        leeway: float = 0.0,
        required: Sequence[str] = ("exp",),
    ) -> None:
        try:
            import jwt
        except ImportError as exc:
            raise ConfigurationError("Tokens (AUTH_SECRET) need: pip install 'socaity[server]'") from exc
        self.algorithms = tuple(algorithms)
        self._jwt = jwt
        self._secret = secret.encode()
        self._key_set = key_set
        self._public_key = None
        if public_key:
            self._public_key = read_public_key(public_key, self.algorithms)
        elif key_set is not None:
            need_cryptography()
        self._audience = list(audience) or None
        self._issuer = issuer
        self._leeway = leeway
        self._required = sorted({*required, "sub"})
        self._known: dict[bytes, tuple[Principal, int]] = {}
        if secret:
            short = getattr(jwt, "InsecureKeyLengthWarning", None)
            if short is not None:  # that the secret is short was said at the start; not for every token
                warnings.filterwarnings("ignore", category=short)

    @classmethod
    def of(cls, auth: Auth, key_set: KeySet | None) -> TokenVerifier | None:
        """None where no tokens are accepted."""
        if not (auth.secret.strip() or auth.public_key or key_set is not None):
            return None
        return cls(
            auth.accepted,
            secret=auth.secret,
            public_key=auth.public_key,
            key_set=key_set,
            audience=auth.audience,
            issuer=auth.issuer,
            leeway=auth.leeway,
            required=auth.required,
        )

    def __repr__(self) -> str:
        return f"TokenVerifier({', '.join(self.algorithms)})"

    def identify(self, token: str) -> Principal | Awaitable[Principal]:
        """Whose token it is; something to await where a key has to be fetched. Raises AuthenticationError."""
        digest = hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()
        known = self._known.get(digest)
        key_set = self._key_set
        if known is not None:
            principal, generation = known
            if principal.has_expired:
                del self._known[digest]
                raise _expired()
            if key_set is None or (generation == key_set.generation and key_set.is_usable):
                return principal
        algorithm, kid = self._read_header(token)
        if algorithm.startswith("HS"):
            return self._verified(token, digest, algorithm, self._secret)
        if self._public_key is not None:
            return self._verified(token, digest, algorithm, self._public_key)
        assert key_set is not None  # the configuration was checked
        key = key_set.find(kid, algorithm) if key_set.is_usable else None
        if key is None:
            return self._after_fetch(key_set, token, digest, algorithm, kid)
        return self._verified(token, digest, algorithm, key)

    async def _after_fetch(
        self, key_set: KeySet, token: str, digest: bytes, algorithm: str, kid: str | None
    ) -> Principal:
        await key_set.refresh(unknown=key_set.is_usable)
        key = key_set.find(kid, algorithm)
        if key is None:
            raise _invalid("it is signed with a key that its issuer does not publish")
        return self._verified(token, digest, algorithm, key)

    def _read_header(self, token: str) -> tuple[str, str | None]:
        try:
            header = self._jwt.get_unverified_header(token)
        except (self._jwt.PyJWTError, ValueError, TypeError, RecursionError):
            raise _invalid("it is not a JSON Web Token") from None
        algorithm, kid = header.get("alg"), header.get("kid")
        if algorithm not in self.algorithms:
            raise _invalid(f"it is not signed with {' or '.join(self.algorithms)}")
        if "crit" in header:
            raise _invalid("it has critical extensions, which are not known here")
        return algorithm, kid if isinstance(kid, str) else None

    def _verified(self, token: str, digest: bytes, algorithm: str, key: Any) -> Principal:
        jwt = self._jwt
        why = ""
        try:
            claims = jwt.decode(
                token,
                key,
                algorithms=[algorithm],
                audience=self._audience,
                issuer=self._issuer,
                leeway=self._leeway,
                options={"require": self._required, "verify_iat": False},
            )
        except jwt.ExpiredSignatureError:
            raise _expired() from None
        except jwt.ImmatureSignatureError:
            raise AuthenticationError(
                "The token is not valid yet (nbf).", code="token_not_yet_valid"
            ) from None
        except jwt.MissingRequiredClaimError as exc:
            why = f"it has no {exc.claim!r}"
        except jwt.InvalidAudienceError:
            why = "it is for another audience (AUTH_AUDIENCE)"
        except jwt.InvalidIssuerError:
            why = "it is of another issuer (AUTH_ISSUER)"
        except jwt.InvalidSignatureError:
            why = "its signature is wrong"
        except (jwt.PyJWTError, ValueError, TypeError, OverflowError, RecursionError):
            why = "it is malformed"
        if why:
            raise _invalid(why)
        principal = self._principal(claims)
        if len(self._known) >= _MOST_KNOWN:
            self._known.pop(next(iter(self._known)))
        self._known[digest] = (principal, 0 if self._key_set is None else self._key_set.generation)
        return principal

    def _principal(self, claims: dict[str, Any]) -> Principal:
        name, roles = claims["sub"], claims.get("roles")
        if not isinstance(name, str) or not 0 < len(name) <= _LONGEST_NAME:
            raise _invalid(f"its 'sub' is no text of 1 to {_LONGEST_NAME} characters")
        if isinstance(roles, str):
            roles = [roles] if roles else []
        if roles is None:
            roles = []
        if (
            not isinstance(roles, list)
            or len(roles) > _MOST_ROLES
            or any(not isinstance(role, str) or len(role) > _LONGEST_NAME for role in roles)
        ):
            raise _invalid("its 'roles' is no list of texts")
        if any(_UNSPEAKABLE.search(text) for text in (name, *roles)):
            raise _invalid("its 'sub' or 'roles' has control characters or half a character")
        exp = claims.get("exp")
        try:
            until = None if exp is None else float(int(exp)) + self._leeway
        except OverflowError:
            raise _invalid("its 'exp' is out of all range") from None
        return Principal(name, "user", tuple(roles), until)


def _invalid(why: str) -> AuthenticationError:
    return AuthenticationError(f"The token is not accepted: {why}.", code="invalid_token")


def _expired() -> AuthenticationError:
    return AuthenticationError("The token has expired; get a new one.", code="token_expired")
