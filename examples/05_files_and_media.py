"""Files, tables and sound as arguments and results: each side writes what it would write for a local function."""

import tempfile
from pathlib import Path

import numpy as np

import socaity
from socaity_server import SocaityRouter

router = SocaityRouter()


@router.add_route("/count")
def count(document: Path) -> dict[str, int]:
    """How many lines and words are in a file. It is a temporary one here, whatever the caller gave."""
    text = document.read_text()
    return {"lines": len(text.splitlines()), "words": len(text.split())}


@router.add_route("/fade")
def fade(sound: socaity.Audio) -> socaity.Audio:
    """Sound that becomes silent."""
    return socaity.Audio(sound.samples * np.linspace(1, 0, len(sound.samples)), sound.sample_rate)


@router.add_route("/checker")
def checker(side: int = 64) -> socaity.Media:
    """A picture that is encoded here, without Pillow."""
    rows = "".join(" ".join(str((x // 8 + y // 8) % 2) for x in range(side)) + "\n" for y in range(side))
    return socaity.Media("image/x-portable-bitmap", f"P1\n{side} {side}\n{rows}".encode(), "checker.pbm")


with tempfile.TemporaryDirectory() as name, socaity.connect(router) as service:
    folder = Path(name)
    print(service.count.__signature__)
    (folder / "poem.txt").write_text("one fish two fish\nred fish blue fish\n")
    print(service.count(folder / "poem.txt").result(timeout=10))  # a path,
    print(service.count(b"as bytes").result(timeout=10))  # bytes,
    with (folder / "poem.txt").open("rb") as file:
        job = service.count(file)  # or an open file, which may be closed at once
    print(job.result(timeout=10))

    tone = socaity.Audio(np.sin(np.arange(16_000) * 440 * 2 * np.pi / 16_000), 16_000)
    faded = service.fade(tone)
    print(faded.result(timeout=10), "->", faded.save(folder / "faded.wav").name)
    print("saved", service.checker().save(folder / "checker.pbm").name)
