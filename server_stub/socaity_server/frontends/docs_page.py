"""`/docs`: Swagger UI over `/openapi.json`, of one version whose files are known by their hash.

The page has the origin of the service, and with it the cookie of whoever has logged in: nothing else may run there.
"""

from __future__ import annotations

import base64
import hashlib
from html import escape

from starlette.requests import Request
from starlette.responses import Response

__all__ = ["docs_page"]

_CDN = "https://cdn.jsdelivr.net/npm/swagger-ui-dist@5.35.0"
_SCRIPT = "sha384-gjRm0bEPMeTmMh5jT2cHccIwCUZSTd8YC+j0d0sXw0MdGEfScduGpSyF3ZSSLkX9"
_STYLE = "sha384-WlYgdmXYOOBWL5apwjDEZwN+U3HmXSSu5R6V5aGxEcf7z+KuRNwBhoxKVN1i3D5I"
"""Of swagger-ui-bundle.js and swagger-ui.css in that version of the package `swagger-ui-dist` on npm."""
_START = (
    "SwaggerUIBundle({url:document.documentElement.dataset.schema,dom_id:'#ui',deepLinking:true,"
    "presets:[SwaggerUIBundle.presets.apis]})"
)
_POLICY = "; ".join(
    [
        "default-src 'none'",
        f"script-src {_CDN}/swagger-ui-bundle.js "
        f"'sha256-{base64.b64encode(hashlib.sha256(_START.encode()).digest()).decode()}'",
        f"style-src {_CDN}/swagger-ui.css 'unsafe-inline'",  # which Swagger UI makes of its own
        "connect-src 'self'",
        "img-src 'self' data:",
        "form-action 'none'",
        "base-uri 'none'",
        "frame-ancestors 'none'",
    ]
)


async def docs_page(request: Request) -> Response:
    """The page; without a way to the CDN it says where the description is."""
    title = escape(request.app.title)
    schema = escape(f"{request.scope.get('root_path', '')}/openapi.json")
    page = (
        f'<!doctype html><html lang=en data-schema="{schema}"><meta charset=utf-8><title>{title}</title>'
        '<meta name=viewport content="width=device-width">'
        f'<link rel=stylesheet href="{_CDN}/swagger-ui.css" integrity="{_STYLE}" crossorigin=anonymous>'
        f'<div id=ui><p>Swagger UI is loaded from {escape(_CDN)}. The description alone: <a href="{schema}">{schema}</a></div>'
        f'<script src="{_CDN}/swagger-ui-bundle.js" integrity="{_SCRIPT}" crossorigin=anonymous></script>'
        f"<script>{_START}</script></html>"
    )
    headers = {
        "Content-Security-Policy": _POLICY,
        "Referrer-Policy": "no-referrer",
        "X-Content-Type-Options": "nosniff",
    }
    return Response(page, 200, headers, "text/html")
