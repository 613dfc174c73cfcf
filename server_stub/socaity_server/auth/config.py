"""`Auth`: how a service identifies its callers and who decides what they may do."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from socaity.exceptions import ConfigurationError

__all__ = ["ALGORITHMS", "Auth"]

_logger = logging.getLogger(__name__)

ALGORITHMS = (
    *("HS256", "HS384", "HS512"),
    *("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"),
    *("ES256", "ES384", "ES512", "EdDSA"),
)
"""Of tokens. `none` is not one, and never will be."""
EXEMPTIBLE = ("health", "metrics")
_URL = re.compile(r"https?://[^\s/?#]+(?:/[^\s#]*)?")


@dataclass(frozen=True, slots=True, repr=False)
class Auth:
    """Authentication, for `SocaityRouter(auth=…)`; what is not given is off. The same as environment: `docs/security.md`.

    `api_keys`: pairs of name and key (or `sha256:` and its hash). Tokens (JWT) are signed with one of `algorithms`: HS* with
    `secret`, the others with `public_key` (PEM, the text itself) or a key of `jwks_url`. They need a `sub`, and the claims in
    `required`; `audience` and `issuer` are compared where they are given; `leeway` is in seconds. `anonymous` lets callers in
    who send nothing. `exempt` actions (health, metrics) need nobody.

    `pdp_url` is a policy decision point that speaks XACML JSON (`pdp_compat`: the request of aiSSEMBLE 1.1), `opa_url` a document
    of an Open Policy Agent; `policy_timeout` and `policy_ttl` are the seconds that a question may take and an answer holds.
    """

    api_keys: Sequence[tuple[str, str]] | Mapping[str, str] = ()
    secret: str = ""
    algorithms: Sequence[str] = ()
    public_key: str = ""
    jwks_url: str | None = None
    audience: Sequence[str] = ()
    issuer: str | None = None
    leeway: float = 0.0
    required: Sequence[str] = ("exp",)
    anonymous: bool = False
    exempt: Sequence[str] = ("health",)
    pdp_url: str | None = None
    pdp_compat: bool = False
    opa_url: str | None = None
    policy_timeout: float = 0.5
    policy_ttl: float = 10.0

    def __repr__(self) -> str:
        given = [name for name in self.__slots__ if getattr(self, name) != _DEFAULTS.get(name)]
        return f"Auth({', '.join(given)})"

    @property
    def accepted(self) -> tuple[str, ...]:
        """The algorithms of tokens: those that are named, else the usual one for what there is to check them with."""
        if self.algorithms:
            return tuple(self.algorithms)
        if self.secret.strip():
            return ("HS256",)
        return ("RS256",) if self.public_key or self.jwks_url else ()

    def check(self) -> None:
        """Raise ConfigurationError for what cannot be meant; say in the log what is weak."""
        asymmetric = bool(self.public_key or self.jwks_url)
        if not (self.api_keys or self.secret.strip() or asymmetric):
            raise ConfigurationError(
                "Authentication is on (AUTH_ENABLED), and there is nothing to identify anybody by: AUTH_SECRET is empty. Set "
                "AUTH_SECRET, AUTH_PUBLIC_KEY, AUTH_JWKS_URL, SOCAITY_API_KEYS or SOCAITY_API_KEYS_FILE; or AUTH_ENABLED=false."
            )
        if self.public_key and self.jwks_url:
            raise ConfigurationError("Give AUTH_PUBLIC_KEY or AUTH_JWKS_URL, not both.")
        if self.pdp_url and self.opa_url:
            raise ConfigurationError("Give OIP_PDP_URL or OPA_URL, not both: one of them decides.")
        for name, url in (
            ("AUTH_JWKS_URL", self.jwks_url),
            ("OIP_PDP_URL", self.pdp_url),
            ("OPA_URL", self.opa_url),
        ):
            if url and not _URL.fullmatch(url):
                raise ConfigurationError(f"{name} is no http(s) URL.")
        if unknown := [word for word in self.exempt if word not in EXEMPTIBLE]:
            raise ConfigurationError(
                f"AUTH_EXEMPT has {unknown[0]!r}; valid is: {', '.join(EXEMPTIBLE)}, or none."
            )
        if self.leeway < 0 or self.policy_timeout <= 0 or self.policy_ttl < 0:
            raise ConfigurationError(
                "leeway and policy_ttl are seconds from 0 on, policy_timeout is more than 0."
            )
        self._check_algorithms(asymmetric)
        if self.anonymous and not (self.pdp_url or self.opa_url):
            _logger.warning(
                "AUTH_ANONYMOUS lets everybody in, and without a policy (OIP_PDP_URL, OPA_URL) they may do everything"
            )

    def _check_algorithms(self, asymmetric: bool) -> None:
        symmetric = bool(self.secret.strip())
        for name in self.algorithms:
            if name not in ALGORITHMS:
                raise ConfigurationError(
                    f"AUTH_ALGORITHM is one of {', '.join(ALGORITHMS)} (several: with commas), not {name!r}."
                )
        accepts_secret = any(name.startswith("HS") for name in self.accepted)
        accepts_keys = any(not name.startswith("HS") for name in self.accepted)
        if self.algorithms and accepts_secret and not symmetric and (asymmetric or not self.api_keys):
            raise ConfigurationError(
                "AUTH_ALGORITHM allows tokens signed with a secret, and AUTH_SECRET is empty. Set it, or take HS… out."
            )
        if accepts_keys and not asymmetric:
            raise ConfigurationError(
                "AUTH_ALGORITHM allows tokens that are signed with a key pair: set AUTH_PUBLIC_KEY (a file) or AUTH_JWKS_URL."
            )
        if asymmetric and not accepts_keys:
            raise ConfigurationError(
                "There is a public key (AUTH_PUBLIC_KEY or AUTH_JWKS_URL), and AUTH_ALGORITHM allows none that uses it: "
                "name it, as RS256 or ES256."
            )
        if symmetric and not accepts_secret:
            raise ConfigurationError(
                "AUTH_SECRET is set, and AUTH_ALGORITHM allows none that uses it: add HS256, or leave the secret out."
            )
        if symmetric and "-----BEGIN" in self.secret:
            raise ConfigurationError(
                "AUTH_SECRET is a key of a key pair, with which HS tokens must never be checked: "
                "give it as AUTH_PUBLIC_KEY (a file)."
            )
        if symmetric:
            size = len(self.secret.encode())
            wanted = max(int(name[2:]) // 8 for name in self.accepted if name.startswith("HS"))
            if size < wanted:
                _logger.warning(
                    "AUTH_SECRET has %d bytes and can be guessed; take %d random ones or more", size, wanted
                )


_DEFAULTS = {
    name: field.default
    for name, field in Auth.__dataclass_fields__.items()  # only to leave out what nobody has given
}
