"""ModelStreamInfer: many requests on one stream, answers of generators, errors as messages and as statuses."""

from __future__ import annotations

import queue
import struct
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import numpy as np
import pytest

from .conftest import SOON, Client, Held, make_router


class Stream:
    """A stream on which a test says something, and hears what comes."""

    def __init__(self, client: Client, *, timeout: float = SOON, **options: Any) -> None:
        self._client = client
        self._outgoing: queue.Queue[Any] = queue.Queue()
        self.call = client.method("ModelStreamInfer")(
            iter(self._outgoing.get, None), timeout=timeout, **options
        )

    def send(self, model: str, *inputs: tuple[str, str, list[int], bytes], **fields: Any) -> None:
        parameters = fields.pop("parameters", {})
        request = self._client.request(model, *inputs, **fields)
        for name, value in parameters.items():
            request.parameters[name].bool_param = value
        self._outgoing.put(request)

    def count(self, start: int, **fields: Any) -> None:
        self.send("count", ("start", "INT64", [1], struct.pack("<q", start)), **fields)

    def same(self, value: float, **fields: Any) -> None:
        self.send("same", ("x", "FP64", [1, 1], struct.pack("<d", value)), **fields)

    def end(self) -> None:
        self._outgoing.put(None)

    def next(self) -> Any:
        return next(self.call)

    def rest(self) -> list[Any]:
        self.end()
        return list(self.call)


def _values(answers: list[Any]) -> list[int]:
    return [
        struct.unpack("<q", answer.infer_response.raw_output_contents[0])[0]
        for answer in answers
        if answer.infer_response.outputs
    ]


def test_generator_gives_one_answer_for_each_value(service: Client) -> None:
    stream = Stream(service)
    stream.count(5, id="c")
    answers = stream.rest()
    assert _values(answers) == [5, 6, 7]
    assert {answer.infer_response.id for answer in answers} == {"c"}
    assert {answer.error_message for answer in answers} == {""}
    assert {answer.infer_response.model_name for answer in answers} == {"count"}


def test_first_answer_comes_before_the_last_request(service: Client) -> None:
    stream = Stream(service)
    stream.count(1)
    assert _values([stream.next() for _ in range(3)]) == [1, 2, 3]
    stream.count(10)
    assert _values(stream.rest()) == [10, 11, 12]


def test_plain_models_answer_in_the_order_of_the_requests(service: Client) -> None:
    stream = Stream(service)
    for number in range(300):
        stream.same(float(number), id=str(number))
    answers = stream.rest()
    assert [answer.infer_response.id for answer in answers] == [str(number) for number in range(300)]


def test_many_generators_share_a_stream(service: Client) -> None:
    stream = Stream(service)
    for number in range(20):
        stream.count(100 * number, id=str(number))
    found: dict[str, list[int]] = {}
    for answer in stream.rest():
        found.setdefault(answer.infer_response.id, []).extend(_values([answer]))
    assert found == {str(n): [100 * n, 100 * n + 1, 100 * n + 2] for n in range(20)}


def test_empty_final_response_comes_where_it_is_wanted(service: Client) -> None:
    stream = Stream(service)
    stream.count(1, id="c", parameters={"triton_enable_empty_final_response": True})
    answers = stream.rest()
    finals = [answer.infer_response.parameters["triton_final_response"].bool_param for answer in answers]
    assert finals == [False, False, False, True]
    last = answers[-1].infer_response
    assert (last.model_name, last.id, len(last.outputs)) == ("count", "c", 0)


def test_only_answer_of_a_plain_model_is_the_final_one(service: Client) -> None:
    stream = Stream(service)
    stream.same(1.0, parameters={"triton_enable_empty_final_response": True})
    (answer,) = stream.rest()
    assert answer.infer_response.parameters["triton_final_response"].bool_param
    assert answer.infer_response.outputs


def test_nobody_is_told_of_finals_who_has_not_asked(service: Client) -> None:
    stream = Stream(service)
    stream.count(1)
    assert not any(answer.infer_response.parameters for answer in stream.rest())


def test_errors_are_messages_and_the_stream_goes_on(service: Client) -> None:
    stream = Stream(service)
    stream.same(1.0, id="a", model_version="7")
    stream.send("nobody", id="b")
    stream.send("fail", ("why", "BYTES", [1], struct.pack("<I", 4) + b"blue"), id="c")
    stream.same(2.0, id="d")
    answers = stream.rest()
    assert [answer.infer_response.id for answer in answers] == ["a", "b", "c", "d"]
    assert "'7'" in answers[0].error_message
    assert "'nobody'" in answers[1].error_message
    assert "blue" in answers[2].error_message
    assert answers[3].error_message == ""


def test_what_is_no_message_is_told_and_the_stream_goes_on(service: Client) -> None:
    method = service.channel.stream_stream("/inference.GRPCInferenceService/ModelStreamInfer")
    good = service.request("same", ("x", "FP64", [1, 1], bytes(8)), id="good").SerializeToString()
    answers = [
        service.messages.ModelStreamInferResponse.FromString(one)
        for one in method(iter([b"\xff" * 9, good]), timeout=SOON)
    ]
    assert "ModelInferRequest" in answers[0].error_message
    assert answers[1].infer_response.id == "good"


def test_error_of_a_tensor_says_whose_it_is_and_keeps_its_place(connect: Callable[..., Client]) -> None:
    held = Held()
    stream = Stream(connect(make_router(held)))
    stream.send("greet", ("name", "BYTES", [1], struct.pack("<I", 1) + b"a"), id="first")
    stream.send("same", ("x", "FP64", [1, 1], bytes(3)), id="second", model_version="1")
    stream.send("count", ("start", "INT64", [1], bytes(3)), id="third")
    stream.send("wait", ("text", "NONE", [1], b""), id="fourth")
    stream.same(2.0, id="fifth")

    answers = stream.rest()

    said = [(one.infer_response.model_name, one.infer_response.id) for one in answers]
    assert said == [
        ("greet", "first"),
        ("same", "second"),
        ("count", "third"),
        ("wait", "fourth"),
        ("same", "fifth"),
    ]
    assert [bool(one.error_message) for one in answers] == [False, True, True, True, False]
    assert "needs 8 bytes; got 3" in answers[1].error_message
    assert answers[1].infer_response.model_version == "1"


def test_error_of_a_tensor_waits_for_the_answers_before_it(connect: Callable[..., Client]) -> None:
    held = Held()
    stream = Stream(connect(make_router(held)))
    stream.send("wait", ("text", "BYTES", [1], struct.pack("<I", 0)), id="slow", parameters={"x": True})
    assert held.begun.acquire(timeout=SOON)
    stream.send("same", ("x", "FP64", [1, 1], bytes(3)), id="wrong")
    stream.count(1, id="quick")
    # the generator comes behind the error, and is not held up
    assert [stream.next().infer_response.id for _ in range(3)] == ["quick"] * 3
    stream.call.cancel()
    assert held.ended.acquire(timeout=SOON)


def test_error_is_the_final_answer(service: Client) -> None:
    wants = {"triton_enable_empty_final_response": True}
    stream = Stream(service)
    stream.send("same", ("x", "FP64", [1, 1], bytes(3)), id="a", parameters=wants)
    stream.send("nobody", id="b", parameters=wants)
    stream.send("fail", ("why", "BYTES", [1], struct.pack("<I", 4) + b"blue"), id="c", parameters=wants)
    stream.send("count", id="d", parameters=wants)
    answers = stream.rest()
    assert all(one.error_message for one in answers)
    finals = {
        one.infer_response.id: one.infer_response.parameters["triton_final_response"].bool_param
        for one in answers
    }
    assert finals == {"a": True, "b": True, "c": True, "d": True}


def test_error_says_nothing_of_finals_where_nobody_asked(service: Client) -> None:
    stream = Stream(service)
    stream.send("nobody", id="b")
    (answer,) = stream.rest()
    assert answer.error_message
    assert not answer.infer_response.parameters


def test_errors_are_statuses_where_the_client_wants_that(service: Client) -> None:
    stream = Stream(service, metadata=(("triton_grpc_error", "true"),))
    stream.send("nobody")
    with pytest.raises(grpc.RpcError) as caught:
        stream.next()
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND
    assert "'nobody'" in caught.value.details()


def test_plain_answer_to_a_generator_is_refused(service: Client) -> None:
    request = service.request("count", ("start", "INT64", [1], bytes(8)))
    refusal = service.refusal("ModelInfer", message=request)
    assert refusal.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "ModelStreamInfer" in refusal.details()


def test_typed_requests_get_typed_answers(service: Client) -> None:
    request = service.messages.ModelInferRequest(model_name="count")
    tensor = request.inputs.add(name="start", datatype="INT64", shape=[1])
    tensor.contents.int64_contents.append(3)
    answers = list(service.method("ModelStreamInfer")(iter([request]), timeout=SOON))
    assert [list(a.infer_response.outputs[0].contents.int64_contents) for a in answers] == [[3], [4], [5]]


def test_large_tensors_go_over_a_stream(service: Client) -> None:
    data = np.arange(500_000, dtype=np.float32).tobytes()
    stream = Stream(service)
    stream.send("same", ("x", "FP32", [1, 500_000], data), id="large")
    (answer,) = stream.rest()
    assert list(answer.infer_response.raw_output_contents) == [data]


def test_client_that_goes_ends_the_generator(connect: Callable[..., Client]) -> None:
    held = Held()
    stream = Stream(connect(make_router(held)))
    stream.send("hold")
    assert stream.next().error_message == ""
    stream.call.cancel()
    assert held.ended.acquire(timeout=SOON), "the generator runs on"


def test_deadline_ends_the_generator(connect: Callable[..., Client]) -> None:
    held = Held()
    stream = Stream(connect(make_router(held)), timeout=1.0)
    stream.send("hold")
    with pytest.raises(grpc.RpcError) as caught:
        list(stream.call)
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert held.ended.acquire(timeout=SOON), "the generator runs on"


def test_slow_request_holds_no_other_up_that_streams(connect: Callable[..., Client]) -> None:
    held = Held()
    stream = Stream(connect(make_router(held)))
    stream.send("wait", ("text", "BYTES", [1], struct.pack("<I", 0)), id="slow")
    assert held.begun.acquire(timeout=SOON)
    stream.count(1, id="quick")
    assert [stream.next().infer_response.id for _ in range(3)] == ["quick"] * 3
    stream.call.cancel()
    assert held.ended.acquire(timeout=SOON), "the call runs on"


def test_no_more_is_read_than_is_worked_on(connect: Callable[..., Client]) -> None:
    held = Held()
    client = connect(make_router(held))
    asked = 0
    request = client.request("wait", ("text", "BYTES", [1], struct.pack("<I", 2**20) + bytes(2**20)))

    def requests() -> Iterator[Any]:
        nonlocal asked
        for _ in range(1000):
            asked += 1
            yield request

    call = client.method("ModelStreamInfer")(requests(), timeout=SOON)
    for _ in range(60):
        assert held.begun.acquire(timeout=SOON)
    # the function runs 64 times at once; the other 64 wait in the server, and the flow control of HTTP/2 holds what follows
    call.cancel()
    assert asked < 600
