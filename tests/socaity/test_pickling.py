"""Functions of a module go to other processes by name; what belongs to a connection does not go at all."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest

import socaity

from .doubles import HeldTransport, held

service = socaity.remote("memory://test", transport=HeldTransport)


@service
def greet(name: str) -> str:
    raise NotImplementedError


@socaity.pipeline
def describe(name: str, times: int = 1) -> str:
    return name * times


class Steps:
    @socaity.pipeline
    def both(self, name: str) -> str:
        return name

    @service.endpoint("greet")
    def greet(self) -> str:
        raise NotImplementedError


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_functions_of_a_module_are_pickled_by_their_names(protocol: int) -> None:
    for function in (greet, describe, Steps.both, Steps.greet):
        assert pickle.loads(pickle.dumps(function, protocol)) is function


def test_a_function_with_options_keeps_them() -> None:
    hasty = pickle.loads(pickle.dumps(greet.with_options(timeout=2.0, memoize=True)))
    assert hasty._base is greet
    assert hasty._call_options == {"timeout": 2.0, "priority": 0, "explain": False, "memoize": True}


def test_a_function_inside_of_another_is_not_pickled() -> None:
    @service
    def greet(name: str) -> str:
        raise NotImplementedError

    with pytest.raises((pickle.PicklingError, AttributeError), match="greet"):
        pickle.dumps(greet)


def test_functions_are_copied_as_functions_are() -> None:
    for function in (greet, describe):
        assert copy.copy(function) is copy.deepcopy([function])[0] is function


def test_an_endpoint_is_not_pickled_and_says_what_to_do() -> None:
    connected, _ = held()
    ask = connected.ask
    with pytest.raises(
        TypeError, match=r"<Endpoint ask\(.*connect again where .*socaity\.connect\(url\)\['ask'\]"
    ):
        pickle.dumps(ask)
    assert copy.deepcopy({"ask": ask})["ask"] is ask
    other = copy.copy(ask)
    assert other is not ask
    assert (other.name, other.service) == ("ask", connected)
    connected.close()


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ({"nam": "x"}, r"^describe\(\) has no argument 'nam'; did you mean 'name'\?$"),
        ({"zzz": 1}, r"^describe\(\) has no argument 'zzz' \(known: name, times\)$"),
        ({}, r"^describe\(name: str, times: int = 1\) -> str: missing a required argument: 'name'$"),
    ],
)
def test_arguments_that_do_not_fit_a_pipeline_are_named(arguments: Any, why: str) -> None:
    with pytest.raises(TypeError, match=why):
        describe(**arguments)
