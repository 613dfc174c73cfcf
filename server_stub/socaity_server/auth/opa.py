"""`OpenPolicyAgent`: asks a document of its data API (`POST /v1/data/…`, `{"input": …}`), which is true for what is allowed."""

from __future__ import annotations

import json
from urllib.parse import urlsplit

from .policy import Access, DecisionPoint, JunkError

__all__ = ["OpenPolicyAgent"]

_DOCUMENT = "/v1/data/socaity/allow"


class OpenPolicyAgent(DecisionPoint):
    """`url` of the document; of the agent alone: `/v1/data/socaity/allow`."""

    def __init__(self, url: str) -> None:
        is_agent = urlsplit(url).path in ("", "/")
        super().__init__(url.rstrip("/") + _DOCUMENT if is_agent else url)

    def question(self, access: Access) -> bytes:
        principal, context = access.principal, access.context
        asked = {
            "user": principal.name,
            "kind": principal.kind,
            "roles": list(principal.roles),
            "action": access.action.value,
            "resource": access.resource,
            "ip": context.peer,
            "method": context.method,
            "path": context.path,
        }
        return json.dumps({"input": asked}, separators=(",", ":")).encode()

    def permits(self, answer: bytes) -> bool:
        try:
            document = json.loads(answer)
        except ValueError:
            raise JunkError("it answered something that is no JSON") from None
        if not isinstance(document, dict):
            raise JunkError("it answered something that is no object")
        result = document.get("result", False)  # left out where the document is undefined
        if type(result) is not bool:
            raise JunkError("its result is neither true nor false")
        return result
