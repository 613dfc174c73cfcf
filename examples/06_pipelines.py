"""Steps that take each other's results: nothing waits in between, and large results stay where they were made."""

import numpy as np
from numpy.typing import NDArray

import socaity
from socaity import Job
from socaity_server import SocaityRouter

router = SocaityRouter()


@router.add_route("/scan")
def scan(page: int) -> dict[str, NDArray[np.uint8]]:
    """A picture of a page, some megabytes."""
    return {"picture": np.full((2000, 1000), 10 * page, np.uint8)}


@router.add_route("/darkness")
def darkness(picture: NDArray[np.uint8]) -> float:
    return float(picture.mean())


@router.add_route("/label")
def label(page: int, darkness: float) -> str:
    if page == 3:
        raise ValueError("the ink is dry")
    return f"page {page} is {darkness:g} dark"


with socaity.connect(router, progress=False) as service:
    scanned = service.scan(1)
    dark = service.darkness(scanned["picture"])  # takes a part of a result that is not there yet
    labelled = service.label(1, dark)
    print(labelled.result(timeout=30))

    @socaity.pipeline
    def read(page: int) -> Job[str]:
        """Three steps as one function, one job and one bar."""
        return service.label(page, service.darkness(service.scan(page)["picture"]))

    job = read(2)
    print(job.result(timeout=30), "after", len(job.upstream), "steps")

    pages = read.map([1, 2, 3, 4])
    for page, result in enumerate(pages.result(timeout=30, return_exceptions=True), 1):
        print(page, result)

    both = service.scan.map([5, 6])  # a map over the jobs of a map
    print(service.darkness.map(member["picture"] for member in both.members()).result(timeout=30))
