"""`connect` to servers of the Open Inference Protocol: MLServer and ours, over REST and gRPC."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
import pytest

import socaity
from socaity.exceptions import (
    APIError,
    InvalidInputError,
    JobCancelled,
    JobFailed,
    NotFoundError,
    ServerError,
    TransportTimeout,
)
from socaity_server import SocaityRouter
from tests.peers.mlserver import DATATYPES, MLServer
from tests.peers.running import OurServer

from .servers import ServerProcess

pytestmark = pytest.mark.timeout(900)  # the first run installs MLServer
DEADLINE = 30.0
WIRES = ("mlserver rest", "mlserver grpc", "ours rest", "ours json", "ours grpc")
STREAMS = ("mlserver rest", "mlserver grpc", "ours rest", "ours grpc")


@pytest.fixture(scope="module")
def mlserver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MLServer]:
    with MLServer(tmp_path_factory.mktemp("mlserver")) as server:
        yield server


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OurServer]:
    with OurServer(tmp_path_factory.mktemp("ours")) as server:
        yield server


def address(wire: str, request: pytest.FixtureRequest) -> str:
    who, how = wire.split()
    server: MLServer | OurServer = request.getfixturevalue(who)
    if how == "grpc":
        return f"oip+grpc://{server.host}:{server.grpc_port}"
    return f"oip+http://{server.host}:{server.http_port}{'?binary=false' if how == 'json' else ''}"


@pytest.fixture(scope="module", params=WIRES)
def service(request: pytest.FixtureRequest) -> Iterator[socaity.Service]:
    with socaity.connect(address(request.param, request), progress=False) as service:
        yield service


@pytest.fixture(scope="module", params=STREAMS)
def streaming(request: pytest.FixtureRequest) -> Iterator[socaity.Service]:
    """MLServer does not say which of its models stream."""
    where = address(request.param, request)
    with socaity.connect(
        f"{where}?stream=words" if "mlserver" in request.param else where, progress=False
    ) as found:
        yield found


def numbers(count: int) -> np.ndarray[Any, Any]:
    return np.arange(count * 16, dtype=np.int32).reshape(count, 16)


class OnlyDLPack:
    """An array of somebody else's library."""

    def __init__(self, array: np.ndarray[Any, Any]) -> None:
        self._array = array

    def __dlpack__(self, **options: Any) -> Any:
        return self._array.__dlpack__(**options)

    def __dlpack_device__(self) -> Any:
        return self._array.__dlpack_device__()


# -- calls ------------------------------------------------------------------------------------------------------------


def test_a_model_is_a_function_with_the_signature_of_its_metadata(service: socaity.Service) -> None:
    parameters = service.simple.__signature__.parameters
    assert list(parameters) == ["INPUT0", "INPUT1", "parameters"]
    assert parameters["INPUT0"].annotation == "Array[int32, 16]"
    assert "OUTPUT0 INT32 [-1, 16]" in (service.simple.__doc__ or "")
    assert "simple" in dir(service)


def test_several_outputs_are_a_mapping_by_name(service: socaity.Service) -> None:
    found = service.simple(numbers(3), INPUT1=np.ones((3, 16), np.int32)).result(DEADLINE)
    assert list(found) == ["OUTPUT0", "OUTPUT1"]
    assert (found["OUTPUT0"] == numbers(3) + 1).all()
    assert (found["OUTPUT1"] == numbers(3) - 1).all()


def test_one_item_needs_no_batch_axis_and_its_answer_has_none(service: socaity.Service) -> None:
    found = service.simple(list(range(16)), [1] * 16).result(DEADLINE)
    assert found["OUTPUT0"].tolist() == list(range(1, 17))


@pytest.mark.parametrize("datatype", DATATYPES)
def test_every_datatype_comes_back_as_it_was(service: socaity.Service, datatype: str) -> None:
    endpoint = service[f"identity_{datatype.lower()}"]
    tensor = endpoint.description.parameters[0].tensor
    assert tensor is not None
    dtype = np.dtype(tensor.dtype)
    if dtype.kind in "iu":
        given = np.array([0, 1, np.iinfo(dtype).min, np.iinfo(dtype).max], dtype)
    else:
        given = np.array([0, 1, 1, 0] if dtype.kind == "b" else [0, 1.5, -2.25, 1e3], dtype)
    found = endpoint(given).result(DEADLINE)
    assert found.dtype == dtype
    assert found.tolist() == given.tolist()
    found[0] = 1  # it is the caller's


def test_text_comes_back_as_text(service: socaity.Service) -> None:
    assert service.identity_bytes(["a", "é", b"b"]).result(DEADLINE).tolist() == ["a", "é", "b"]
    assert service.identity_bytes("solo").result(DEADLINE) == "solo"


@pytest.mark.parametrize("wire", ["mlserver grpc", "ours rest", "ours grpc"])
def test_bytes_come_back_as_bytes_where_the_wire_has_room_for_them(
    wire: str, request: pytest.FixtureRequest
) -> None:
    with socaity.connect(address(wire, request), progress=False) as service:
        assert service.identity_bytes([b"\xff\0", b"a"]).result(DEADLINE).tolist() == [b"\xff\0", b"a"]


def test_bytes_that_json_cannot_carry_are_refused_before_they_are_sent(mlserver: MLServer) -> None:
    with socaity.connect(f"oip+http://{mlserver.host}:{mlserver.http_port}", progress=False) as service:
        with pytest.raises(InvalidInputError, match="no UTF-8"):
            service.identity_bytes([b"\xff"]).result(DEADLINE)


def test_arrays_of_all_kinds_are_taken(service: socaity.Service) -> None:
    expected = [[1.0, 2.0], [3.0, 4.0]]
    whole = np.array(expected, np.float32)
    frame = pd.DataFrame(expected, columns=["a", "b"])
    for given in (expected, whole, whole.astype(np.float64), frame, OnlyDLPack(whole), memoryview(whole)):
        assert service.identity_fp32_matrix(given).result(DEADLINE).tolist() == expected
    columns = pd.DataFrame({"INPUT0": [0.5, 1.5]})
    assert service.identity_fp32(**columns).result(DEADLINE).tolist() == [0.5, 1.5]
    assert service.identity_bytes(pd.Series(["a", "b"])).result(DEADLINE).tolist() == ["a", "b"]


def test_torch_tensors_are_taken(service: socaity.Service) -> None:
    torch = pytest.importorskip("torch")
    given = torch.tensor([0.5, 1.5], requires_grad=True)
    for one in (given, given.to(torch.bfloat16)):
        assert service.identity_fp32(one).result(DEADLINE).tolist() == [0.5, 1.5]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (np.ones((2, 16)), r"INPUT0=…\): expected int32 \[16\] or \[n, 16\], got float64 \[2, 16\]"),
        (np.ones((2, 15), np.int32), r"INPUT0=…\): expected int32 .*, got int32 \[2, 15\]"),
        ([2**40] * 16, r"INPUT0=…\): expected int32 .* outside"),
        ("text", r"INPUT0=…\): expected int32"),
    ],
)
def test_what_does_not_fit_raises_before_anything_is_sent(
    service: socaity.Service, given: Any, said: str
) -> None:
    with pytest.raises(InvalidInputError, match=said) as caught:
        service.simple(given, numbers(2))
    assert caught.value.parameter == "INPUT0"


def test_many_calls_are_in_flight_and_each_gets_its_answer(service: socaity.Service) -> None:
    found = service.identity_int32.map([[n] for n in range(300)]).result(DEADLINE)
    assert [one.tolist() for one in found] == [[n] for n in range(300)]


def test_large_arrays_travel(service: socaity.Service) -> None:
    given = np.random.default_rng(0).random((512, 1024), np.float32)
    assert (service.identity_fp32_matrix(given).result(DEADLINE) == given).all()


def test_a_call_can_be_cancelled(service: socaity.Service) -> None:
    job = service.slow([10.0])
    job.cancel()
    with pytest.raises(JobCancelled):
        job.result(DEADLINE)


def test_a_timeout_ends_the_call(service: socaity.Service) -> None:
    with pytest.raises((TransportTimeout, ServerError)):
        service.slow.with_options(timeout=0.2)([10.0]).result(DEADLINE)


def test_an_unknown_id_is_not_found(service: socaity.Service) -> None:
    with pytest.raises(NotFoundError, match="keeps no jobs"):
        service.job("unknown").result(DEADLINE)


async def _ask(service: socaity.Service) -> tuple[Any, str]:
    return await service.identity_int8([1]), await service.identity_bytes("a")


def test_calls_may_be_awaited(service: socaity.Service) -> None:
    found, text = asyncio.run(_ask(service))
    assert (found.tolist(), text) == ([1], "a")


@pytest.mark.parametrize("wire", ["ours rest", "ours grpc"])
def test_parameters_reach_the_model(wire: str, request: pytest.FixtureRequest) -> None:
    with socaity.connect(address(wire, request), progress=False) as service:
        given = {"colour": "red", "count": 3, "share": 0.5, "is_it": True}
        found = service.described(1.5, parameters=given).result(DEADLINE)
        assert found.tolist() == ["1.5 red 3 0.5 True"]


@pytest.mark.parametrize("wire", ["ours rest", "ours grpc"])
def test_a_model_that_raises_is_an_error_of_the_server(wire: str, request: pytest.FixtureRequest) -> None:
    with socaity.connect(address(wire, request), progress=False) as service:
        with pytest.raises(ServerError, match="this model always fails"):
            service.broken([1.0]).result(DEADLINE)


@pytest.mark.parametrize("wire", ["mlserver rest", "mlserver grpc"])
def test_a_model_that_says_nothing_takes_inputs_by_name(wire: str, request: pytest.FixtureRequest) -> None:
    with socaity.connect(address(wire, request), progress=False) as service:
        given = np.array([1.5, 2.5], np.float32)
        assert service.bare(INPUT0=given).result(DEADLINE).tolist() == [1.5, 2.5]


FUNCTIONS = """
from socaity_server import SocaityRouter

router = SocaityRouter()


@router.add_route("/lengths")
def lengths(a: list[float], b: list[list[int]] = [[1]], c: list[str] = []) -> list[int]:
    return [len(a), len(b), len(c)]
"""


@pytest.fixture(scope="module")
def functions(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    folder = tmp_path_factory.mktemp("functions")
    (folder / "functions_service.py").write_text(FUNCTIONS)
    env = {"PYTHONPATH": str(folder), "SOCAITY_GRPC_MAX_MESSAGE": "100000"}
    with ServerProcess("functions_service:router", "--grpc-port", "0", env=env) as server:
        yield server


@pytest.mark.parametrize("wire", ["rest", "json", "grpc"])
def test_a_function_takes_lists_of_any_lengths(wire: str, functions: ServerProcess) -> None:
    with socaity.connect(_address_of(functions, wire), progress=False) as service:
        for given in ([[1.0, 2.0], [[1]], ["x"]], [[1.0], [[1, 2], [3, 4]], ["x", "y", "z"]]):
            assert service.lengths(*given).result(DEADLINE).tolist() == [len(one) for one in given]
        assert service.lengths([1.0, 2.0, 3.0]).result(DEADLINE).tolist() == [3, 1, 0]
        with pytest.raises(InvalidInputError):
            service.lengths([1.0], b=[1, 2])


def test_too_large_a_message_of_grpc_is_a_wrong_input(functions: ServerProcess) -> None:
    with socaity.connect(_address_of(functions, "grpc"), progress=False) as service:
        with pytest.raises(InvalidInputError, match="larger than max") as caught:
            service.lengths(np.zeros(100_000)).result(DEADLINE)
    assert caught.value.status == 413


def _address_of(server: ServerProcess, wire: str) -> str:
    if wire != "grpc":
        return f"oip+http://127.0.0.1:{server.port}{'?binary=false' if wire == 'json' else ''}"
    found = re.search(r"gRPC at (\S+:\d+)", server.said)
    assert found is not None, server.said
    return f"oip+grpc://{found[1]}"


# -- streams ----------------------------------------------------------------------------------------------------------


def _texts(chunks: list[Any]) -> list[str]:
    """Ours is a function that gives a mapping: it does not say that it gives one text at a time."""
    return [one if isinstance(one, str) else one.tolist()[0] for one in chunks]


def _words(service: socaity.Service, **more: Any) -> Any:
    """Two words, said in the way of either server."""
    if "REPETITION" in service.words.__signature__.parameters:
        return service.words("word", REPETITION=2, **more)
    return service.words("word word", **more)


def test_a_model_that_streams_is_iterated(streaming: socaity.Service) -> None:
    assert _texts(list(_words(streaming))) == ["word", "word"]
    assert _texts(_words(streaming).result(DEADLINE)) == ["word", "word"]


async def _iterate(service: socaity.Service) -> list[Any]:
    return [chunk async for chunk in _words(service)]


def test_a_stream_is_iterated_on_an_event_loop(streaming: socaity.Service) -> None:
    assert _texts(asyncio.run(_iterate(streaming))) == ["word", "word"]


@pytest.mark.parametrize("wire", ["ours rest", "ours grpc"])
def test_cancelling_a_stream_ends_it_at_the_server(wire: str, request: pytest.FixtureRequest) -> None:
    with socaity.connect(address(wire, request), progress=False) as service:
        job = service.words("a", REPETITION=1000, DELAY=0.02)
        assert _texts([next(iter(job))]) == ["a"]
        job.cancel()
        with pytest.raises(JobCancelled):
            job.result(DEADLINE)
        running = (service.streams(1).result(DEADLINE)["RUNNING"].tolist() for _ in range(10_000))
        assert any(one == [0] for one in running)  # the function looks up at its next word


@pytest.mark.parametrize("wire", ["ours rest", "ours grpc"])
def test_a_stream_that_fails_says_so_behind_its_chunks(wire: str, request: pytest.FixtureRequest) -> None:
    with socaity.connect(address(wire, request), progress=False) as service:
        chunks = []
        with pytest.raises(JobFailed, match="the last answer was to fail"):
            for chunk in service.words("a", REPETITION=3, FAIL_LAST=True):
                chunks.append(chunk)
        assert _texts(chunks) == ["a", "a"]


# -- together with the rest -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wire", ["mlserver rest", "mlserver grpc", "ours grpc"])
def test_jobs_are_arguments_here_and_elsewhere(wire: str, request: pytest.FixtureRequest) -> None:
    router = SocaityRouter()

    @router.add_route("/total")
    def total(values: list[float]) -> float:
        return sum(values)

    @router.add_route("/pair")
    def pair(value: float) -> dict[str, list[float]]:
        return {"both": [value, 2 * value]}

    with (
        socaity.connect(address(wire, request), progress=False) as models,
        socaity.connect(router) as functions,
    ):
        doubled = models.simple(numbers(1), numbers(1))
        assert (
            models.identity_int32(doubled["OUTPUT0"][0]).result(DEADLINE).tolist()
            == (2 * numbers(1)[0]).tolist()
        )
        both = functions.pair(functions.total(models.identity_fp32([1.0, 2.0])))["both"]
        assert models.identity_fp64(both).result(DEADLINE).tolist() == [3, 6]
        refused = models.identity_fp32_matrix(models.identity_fp32([1.0, 2.0, 3.0])["no such key"])
        with pytest.raises(socaity.SocaityError):
            refused.result(DEADLINE)


def test_the_command_line_calls_a_model(mlserver: MLServer) -> None:
    url = f"oip+grpc://{mlserver.host}:{mlserver.grpc_port}"
    for arguments, said in (
        (["call", url, "words", "PROMPT=hello"], "hello\n"),
        (["call", url, "identity_int8", "INPUT0=[1, 2]", "--json"], "[1, 2]\n"),
    ):
        done = _socaity(*arguments)
        assert (done.returncode, done.stdout) == (0, said), done.stderr
    listed = _socaity("endpoints", url)
    assert "simple(INPUT0: Array[int32, 16], INPUT1: Array[int32, 16]" in listed.stdout
    written = _socaity("stub", url)
    compile(written.stdout, "stub", "exec")
    assert "INPUT0: INT32 [-1, 16]" in written.stdout


def _socaity(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "socaity.cli", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def test_the_view_of_a_notebook_shows_the_models(service: socaity.Service) -> None:
    assert "identity_fp32_matrix" in service._repr_html_()


def test_a_plain_address_is_recognised(mlserver: MLServer) -> None:
    for url in (mlserver.url, f"{mlserver.url}/v2", f"{mlserver.url}/v2/models/simple"):
        with socaity.connect(url, progress=False) as service:
            found = service.simple(numbers(2), numbers(2)).result(DEADLINE)
            assert (found["OUTPUT0"] == 2 * numbers(2)).all()
            assert (list(service) == ["simple"]) == url.endswith("simple")


# -- the server itself ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=["mlserver rest", "mlserver grpc", "ours rest", "ours grpc"])
def server(request: pytest.FixtureRequest) -> Iterator[socaity.Service]:
    where = address(request.param, request)
    with socaity.connect(where, transport="open_inference_server", progress=False) as service:
        yield service


def test_the_server_tells_of_itself(server: socaity.Service) -> None:
    about = server.server().result(DEADLINE)
    assert about["name"] in ("mlserver", "peers")
    assert server.live().result(DEADLINE) is True
    assert server.ready("simple").result(DEADLINE) is True
    assert server.metadata("simple").result(DEADLINE)["inputs"][0] == {
        "name": "INPUT0",
        "datatype": "INT32",
        "shape": [-1, 16],
    }
    index = server.index(ready=True).result(DEADLINE)
    assert {one["state"] for one in index if one["name"] == "simple"} == {"READY"}
    with pytest.raises((NotFoundError, InvalidInputError)):
        server.metadata("unknown").result(DEADLINE)


def test_models_are_unloaded_and_loaded(server: socaity.Service) -> None:
    known = {one["name"] for one in server.index().result(DEADLINE)}
    name = "comes_and_goes" if "comes_and_goes" in known else "bare"
    server.unload(name).result(DEADLINE)
    try:
        states = {one["name"]: one["state"] for one in server.index().result(DEADLINE)}
        assert states[name] != "READY"
        with pytest.raises(APIError):
            server.metadata(name).result(DEADLINE)
    finally:
        server.load(name).result(DEADLINE)
    assert server.ready(name).result(DEADLINE) is True
    with pytest.raises(APIError):
        server.load("unknown").result(DEADLINE)


@pytest.mark.parametrize("wire", ["ours rest", "ours grpc"])
def test_configuration_and_statistics_have_one_form(wire: str, request: pytest.FixtureRequest) -> None:
    where = address(wire, request)
    with socaity.connect(where, transport="open_inference_server", progress=False) as server:
        config = server.config("simple").result(DEADLINE)
        assert config["input"][0] == {"name": "INPUT0", "data_type": "TYPE_INT32", "dims": [16]}
        [before] = server.statistics("simple").result(DEADLINE)["model_stats"]
        with socaity.connect(where, progress=False) as service:
            service.simple(numbers(3), numbers(3)).result(DEADLINE)
        [after] = server.statistics("simple").result(DEADLINE)["model_stats"]
        assert after["inference_count"] - before.get("inference_count", 0) == 3
        assert len(server.statistics().result(DEADLINE)["model_stats"]) > 1
