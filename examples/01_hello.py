"""A service with one function, and a call of it. The client and the server are in one process here."""

import socaity
from socaity_server import SocaityRouter

router = SocaityRouter()


@router.add_route("/greet")
def greet(name: str, times: int = 1) -> str:
    """Say hello."""
    return " ".join([f"Hello, {name}!"] * times)


with socaity.connect(router) as service:  # elsewhere: socaity.connect("http://127.0.0.1:8000")
    print(service.greet.__signature__)
    job = service.greet("Ada", times=2)  # a Job, at once
    print(job.result(timeout=10))
    try:
        service.greet(nam="Ada")  # refused here, before anything is sent
    except socaity.InvalidInputError as error:
        print(error)
