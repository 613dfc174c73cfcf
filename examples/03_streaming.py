"""A generator on the server is an iterator here: `for` in a thread, `async for` in an event loop."""

import asyncio
from collections.abc import Iterator

import socaity
from socaity_server import SocaityRouter

router = SocaityRouter()


@router.add_route("/write")
def write(prompt: str, words: int = 5) -> Iterator[str]:
    """Continue a text, one word at a time."""
    for number in range(words):
        yield f"{prompt}-{number}"


async def main(service: socaity.Service) -> None:
    """The same in an event loop."""
    async for word in service.write("async"):
        print(word, end=" ", flush=True)
    print()


with socaity.connect(router) as service:
    for word in service.write("sync"):  # each word as soon as it is there
        print(word, end=" ", flush=True)
    print()
    asyncio.run(main(service))
    print(service.write("whole", words=3).result(timeout=10))  # or all of them as a list
