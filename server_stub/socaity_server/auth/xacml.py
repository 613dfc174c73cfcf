"""`XACML`: the JSON profile of XACML 3.0 (OASIS, 2014), as AuthzForce and others speak it."""

from __future__ import annotations

import json
from collections.abc import Hashable
from typing import Any

from .policy import Access, DecisionPoint, JunkError

__all__ = ["XACML"]

_SUBJECT = "urn:oasis:names:tc:xacml:1.0:subject-category:access-subject"
_RESOURCE = "urn:oasis:names:tc:xacml:3.0:attribute-category:resource"
_ACTION = "urn:oasis:names:tc:xacml:3.0:attribute-category:action"
_ENVIRONMENT = "urn:oasis:names:tc:xacml:3.0:attribute-category:environment"

_SUBJECT_ID = "urn:oasis:names:tc:xacml:1.0:subject:subject-id"
_ROLE = "urn:oasis:names:tc:xacml:2.0:subject:role"
_IP = "urn:oasis:names:tc:xacml:1.0:subject:authn-locality:ip-address"
_RESOURCE_ID = "urn:oasis:names:tc:xacml:1.0:resource:resource-id"
_ACTION_ID = "urn:oasis:names:tc:xacml:1.0:action:action-id"
_KIND = "urn:socaity:subject:kind"
_METHOD = "urn:socaity:request:method"
_PATH = "urn:socaity:request:path"

_STRING = "http://www.w3.org/2001/XMLSchema#string"
_DECISIONS = ("Permit", "Deny", "NotApplicable", "Indeterminate")


class XACML(DecisionPoint):
    """`compat`: exactly the request of aiSSEMBLE 1.1, in which everybody reads data and has one role."""

    content_type = "application/xacml+json"

    def __init__(self, url: str, *, compat: bool = False) -> None:
        super().__init__(url)
        self._compat = compat

    def question(self, access: Access) -> bytes:
        if self._compat:
            user, role = self._plain_subject(access)
            categories = [
                _category(_SUBJECT, (_SUBJECT_ID, user), (_ROLE, role)),
                _category(_RESOURCE, (_RESOURCE_ID, "data")),
                _category(_ACTION, (_ACTION_ID, "read")),
            ]
            return json.dumps(_request(categories), indent=2).encode()
        principal, context = access.principal, access.context
        subject: list[tuple[str, Any]] = [(_SUBJECT_ID, principal.name), (_KIND, principal.kind)]
        if principal.roles:
            subject.append((_ROLE, list(principal.roles)))
        if context.peer:
            subject.append((_IP, context.peer))
        around = [(_METHOD, context.method), (_PATH, context.path)]
        categories = [
            _category(_SUBJECT, *subject),
            _category(_RESOURCE, (_RESOURCE_ID, access.resource)),
            _category(_ACTION, (_ACTION_ID, access.action.value)),
            _category(_ENVIRONMENT, *((name, value) for name, value in around if value)),
        ]
        return json.dumps(_request(categories), separators=(",", ":")).encode()

    def permits(self, answer: bytes) -> bool:
        try:
            document = json.loads(answer)
        except ValueError:
            raise JunkError("it answered something that is no JSON") from None
        responses = document.get("Response") if isinstance(document, dict) else None
        # version 1.0 of the profile lets a single result stand alone
        first = responses[0] if isinstance(responses, list) and responses else responses
        if not isinstance(first, dict):
            raise JunkError("its answer has no decision")
        decision = first.get("Decision")
        if decision not in _DECISIONS:
            raise JunkError("its answer has no decision")
        # "only on these conditions", none of which is known here: who cannot meet them has to refuse
        return bool(decision == "Permit" and not first.get("Obligations"))

    def key(self, access: Access) -> Hashable:
        return self._plain_subject(access) if self._compat else access.key

    @staticmethod
    def _plain_subject(access: Access) -> tuple[str, str]:
        roles = access.principal.roles
        return access.principal.name, (roles[0] if roles else "") or "unknown"


def _request(categories: list[dict[str, Any]]) -> dict[str, Any]:
    return {"Request": {"ReturnPolicyIdList": False, "CombinedDecision": False, "Category": categories}}


def _category(name: str, *attributes: tuple[str, Any]) -> dict[str, Any]:
    return {
        "CategoryId": name,
        "Attribute": [
            {"AttributeId": key, "IncludeInResult": False, "DataType": _STRING, "Value": value}
            for key, value in attributes
        ],
    }
