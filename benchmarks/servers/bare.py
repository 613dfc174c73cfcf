"""A bare ASGI application that parses a JSON body and answers what it is told, started just as the router.

The answer is the first argument, as JSON.
"""

from __future__ import annotations

import sys
from typing import Any

import orjson

from socaity_server import SocaityRouter

answer = orjson.loads(sys.argv[1])


async def app(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "lifespan":
        while (message := await receive())["type"] != "lifespan.shutdown":
            await send({"type": f"{message['type']}.complete"})
        await send({"type": "lifespan.shutdown.complete"})
        return
    message = await receive()
    body = message["body"]
    while message["more_body"]:
        message = await receive()
        body += message["body"]
    orjson.loads(body)
    data = orjson.dumps(answer)
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(data))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": data})


if __name__ == "__main__":
    router = SocaityRouter()
    router.app = app
    router.start(port=0, log_level="warning", on_ready=lambda url: print(url, flush=True))
