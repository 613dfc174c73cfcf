"""The demo (`make demo`): starts a server, calls it in every way, and stops it. Everything that is printed is computed."""

from __future__ import annotations

import asyncio
import contextlib
import io
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

import socaity

HERE = Path(__file__).parent
SHADES = " .:-=+*#%@"
CALLS = 36_000
DEADLINE = 30.0


def main() -> None:
    """Run every part against one server."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # not every terminal has lines to draw
    held_out = np.load(HERE / "models" / "digits_held_out.npz")
    pixels, labels = held_out["x"].astype(np.float32), held_out["y"]
    with running_server() as url, socaity.connect(url, progress=False) as service:
        print(f"A server runs at {url}. What can be called there:")
        for endpoint in service.endpoints.values():
            print(f"  {endpoint.name}{endpoint.__signature__}")
        show_digits(service, pixels)
        is_right = show_accuracy(service, pixels, labels)
        show_stream(service, pixels[0])
        show_job(url, is_right)
        show_pipeline(service, pixels[:6])
        show_rate(service, pixels)
    print("\nThe server was stopped.")


@contextlib.contextmanager
def running_server() -> Iterator[str]:
    """The service of demo_service.py in a process of its own; gives its address as soon as it says that it is ready."""
    server = subprocess.Popen([sys.executable, HERE / "demo_service.py"], stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    lines: queue.SimpleQueue[str] = queue.SimpleQueue()
    threading.Thread(target=lambda out: lines.put(out.readline()), args=(server.stdout,), daemon=True).start()
    try:
        try:
            url = lines.get(timeout=DEADLINE).strip()
        except queue.Empty:
            sys.exit(f"The server did not say within {DEADLINE:g} s that it is ready.")
        if not url:
            sys.exit(
                f"The server ended with code {server.wait(DEADLINE)} before it was ready; see its message above."
            )
        yield url
    finally:
        server.terminate()
        try:
            server.wait(DEADLINE)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()
        server.stdout.close()


def title(text: str) -> None:
    """The headline of a part."""
    print(f"\n── {text}")


def show_digits(service: socaity.Service, pixels: np.ndarray) -> None:
    title("One call per digit")
    chosen = pixels[:6]
    jobs = [service.digits(row) for row in chosen]  # each is sent at once, none is waited for yet
    answers = [job.result(timeout=DEADLINE) for job in jobs]
    for line in range(8):
        print("  " + "   ".join(drawn(row)[line] for row in chosen))
    print("  " + "   ".join(f"{answer.argmax()} ({answer.max():.1%})".ljust(16) for answer in answers))


def drawn(row: np.ndarray) -> list[str]:
    """An 8 x 8 digit as eight lines of characters."""
    return ["".join(SHADES[int(value) * 9 // 16] * 2 for value in line) for line in row.reshape(8, 8)]


def show_accuracy(service: socaity.Service, pixels: np.ndarray, labels: np.ndarray) -> np.ndarray:
    title(f"The {len(labels)} digits that the training did not see")
    probabilities = service.digits(pixels).result(timeout=DEADLINE)  # all rows in one call
    is_right = probabilities.argmax(axis=1) == labels
    print(f"  {is_right.sum()} of {len(labels)} are read right: {is_right.mean():.1%}")
    return is_right


def show_stream(service: socaity.Service, row: np.ndarray) -> None:
    title("A streamed answer, printed as it comes")
    print("  ", end="")
    for word in service.explain(service.digits(row).result(timeout=DEADLINE)):
        print(word, end="", flush=True)
    print()


def show_job(url: str, is_right: np.ndarray) -> None:
    """The only part with a bar: socaity shows one for a wait of more than half a second, unless it is told not to."""
    title("A job that says how far it is")
    with socaity.connect(url) as service:
        job = service.interval(is_right, rounds=600)
        low, high = job.result(timeout=DEADLINE)
    print(f"  {job.progress.fraction:.0%}, {job.progress.message}")
    print(f"  95 % interval of the accuracy: {low:.1%} to {high:.1%}")


def show_pipeline(service: socaity.Service, pixels: np.ndarray) -> None:
    title("A pipeline: an unfinished job is the argument of the next call")
    job = service.digits(pixels)
    spelled = service.spell(probabilities=job)
    print(f"  digits → spell: {spelled.result(timeout=DEADLINE)}")


def show_rate(service: socaity.Service, pixels: np.ndarray) -> None:
    title(f"{CALLS:,} calls, one digit each, over one connection")
    rows = np.tile(pixels, (CALLS // len(pixels) + 1, 1))[:CALLS]
    expected = service.digits(rows).result(timeout=DEADLINE).argmax(axis=1)

    started = time.perf_counter()
    mapped = service.digits.map(rows).result(timeout=DEADLINE)
    report("map", time.perf_counter() - started, mapped, expected)

    async def call_all() -> list[np.ndarray]:
        async with asyncio.timeout(DEADLINE):
            return await socaity.gather(*[service.digits(row) for row in rows])

    started = time.perf_counter()
    gathered = asyncio.run(call_all())
    report("await gather", time.perf_counter() - started, gathered, expected)


def report(way: str, seconds: float, answers: list[np.ndarray], expected: np.ndarray) -> None:
    same = int((np.argmax(answers, axis=1) == expected).sum())
    print(f"  {way}: {len(answers) / seconds:,.0f} calls per second; {same:,} answers as in one big call")


if __name__ == "__main__":
    main()
