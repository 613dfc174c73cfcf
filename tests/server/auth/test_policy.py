"""Policy decision points: what they are asked, what their answers mean, and that no answer is a no."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from socaity.exceptions import AuthenticationError, ServerError
from socaity_server.auth.actions import Action, model_resource
from socaity_server.auth.opa import OpenPolicyAgent
from socaity_server.auth.policy import Access, DecisionPoint, Policy
from socaity_server.auth.principal import Principal, RequestContext
from socaity_server.auth.xacml import XACML
from tests.server.auth.peers import Peer, closed_port, decision

pytestmark = pytest.mark.anyio

ALICE = Principal("alice", "user", ("reader", "writer"))
CONTEXT = RequestContext("10.0.0.7", "POST", "/predict/digits")


def access(
    principal: Principal = ALICE,
    action: Action = Action.INFER,
    resource: str = model_resource("digits", "2"),
    context: RequestContext = CONTEXT,
) -> Access:
    return Access(principal, action, resource, context)


@pytest.fixture
def point() -> Iterator[Peer]:
    with Peer(lambda _: decision("Permit")) as peer:
        yield peer


@asynccontextmanager
async def asking(kind: DecisionPoint, **settings: Any) -> AsyncIterator[Policy]:
    policy = Policy(kind, **{"timeout": 20.0, **settings})
    try:
        yield policy
    finally:
        await policy.aclose()


async def decided(policy: Policy, one: Access) -> bool:
    """Whether it is permitted."""
    try:
        waiting = policy.check(one)
        if waiting is not None:
            await waiting
    except AuthenticationError as exc:
        error = exc
    else:
        return True
    assert (error.status, error.code) == (403, "forbidden")
    return False


async def test_xacml_says_everything_and_all_roles(point: Peer) -> None:
    async with asking(XACML(f"{point.url}/pdp")) as policy:
        assert await decided(policy, access())
    assert point.headers[0][b"content-type"] == b"application/xacml+json"
    subject, resource, action, environment = json.loads(point.bodies[0])["Request"]["Category"]

    def values(category: dict[str, Any]) -> dict[str, Any]:
        return {one["AttributeId"].rpartition(":")[2]: one["Value"] for one in category["Attribute"]}

    assert values(subject) == {
        "subject-id": "alice",
        "kind": "user",
        "role": ["reader", "writer"],
        "ip-address": "10.0.0.7",
    }
    assert values(resource) == {"resource-id": "model:digits:2"}
    assert values(action) == {"action-id": "infer"}
    assert values(environment) == {"method": "POST", "path": "/predict/digits"}


COMPATIBLE = """{
  "Request": {
    "ReturnPolicyIdList": false,
    "CombinedDecision": false,
    "Category": [
      {
        "CategoryId": "urn:oasis:names:tc:xacml:1.0:subject-category:access-subject",
        "Attribute": [
          {
            "AttributeId": "urn:oasis:names:tc:xacml:1.0:subject:subject-id",
            "IncludeInResult": false,
            "DataType": "http://www.w3.org/2001/XMLSchema#string",
            "Value": "alice"
          },
          {
            "AttributeId": "urn:oasis:names:tc:xacml:2.0:subject:role",
            "IncludeInResult": false,
            "DataType": "http://www.w3.org/2001/XMLSchema#string",
            "Value": "ROLE"
          }
        ]
      },
      {
        "CategoryId": "urn:oasis:names:tc:xacml:3.0:attribute-category:resource",
        "Attribute": [
          {
            "AttributeId": "urn:oasis:names:tc:xacml:1.0:resource:resource-id",
            "IncludeInResult": false,
            "DataType": "http://www.w3.org/2001/XMLSchema#string",
            "Value": "data"
          }
        ]
      },
      {
        "CategoryId": "urn:oasis:names:tc:xacml:3.0:attribute-category:action",
        "Attribute": [
          {
            "AttributeId": "urn:oasis:names:tc:xacml:1.0:action:action-id",
            "IncludeInResult": false,
            "DataType": "http://www.w3.org/2001/XMLSchema#string",
            "Value": "read"
          }
        ]
      }
    ]
  }
}"""


@pytest.mark.parametrize(
    ("roles", "role"), [(("reader", "writer"), "reader"), ((), "unknown"), (("",), "unknown")]
)
async def test_compatible_request_is_that_of_the_other_server(
    point: Peer, roles: tuple[str, ...], role: str
) -> None:
    async with asking(XACML(point.url, compat=True)) as policy:
        assert await decided(policy, access(Principal("alice", "user", roles)))
        # to it everything is the same question
        assert await decided(policy, access(Principal("alice", "user", roles), Action.LOAD, "model:other:1"))
    assert point.bodies == [COMPATIBLE.replace("ROLE", role).encode()]


@pytest.mark.parametrize("word", ["Deny", "NotApplicable", "Indeterminate"])
async def test_only_permit_permits(point: Peer, word: str) -> None:
    point.answer = lambda _: decision(word)
    async with asking(XACML(point.url)) as policy:
        assert not await decided(policy, access())


@pytest.mark.parametrize("obligations", [[{"Id": "urn:log-it"}], {"Id": "urn:log-it"}])
async def test_permit_on_conditions_that_nobody_meets_is_a_no(point: Peer, obligations: Any) -> None:
    point.answer = lambda _: {"Response": [{"Decision": "Permit", "Obligations": obligations}]}
    async with asking(XACML(point.url)) as policy:
        assert not await decided(policy, access())
    point.answer = lambda _: {"Response": [{"Decision": "Permit", "Obligations": []}]}
    async with asking(XACML(point.url)) as policy:
        assert await decided(policy, access())


async def test_only_the_first_response_counts(point: Peer) -> None:
    point.answer = lambda _: {"Response": [{"Decision": "Deny"}, {"Decision": "Permit"}]}
    async with asking(XACML(point.url)) as policy:
        assert not await decided(policy, access())


JUNK = [
    b"",
    b"Permit",
    b"null",
    b"[]",
    b'"Permit"',
    {},
    {"Response": []},
    {"Response": ["Permit"]},
    {"Response": {"Decision": ["Permit"]}},
    {"Response": [{"Decision": "permit"}]},
    {"Response": [{"Decision": None}]},
    {"Response": [[{"Decision": "Permit"}]]},
    (500, {"Response": [{"Decision": "Permit"}]}),
    (204, b""),
    (302, {"Response": [{"Decision": "Permit"}]}),
    b"[" * 60_000,
    b'{"Response": [{"Decision": "Permit"}], "more": "' + b"x" * 100_000 + b'"}',
]


@pytest.mark.parametrize("junk", JUNK, ids=lambda junk: str(junk)[:24])
async def test_junk_is_503_and_not_remembered(point: Peer, junk: Any) -> None:
    point.answer = lambda _: junk
    async with asking(XACML(point.url)) as policy:
        for _ in range(2):
            with pytest.raises(ServerError) as caught:
                await decided(policy, access())
            assert (caught.value.status, caught.value.code) == (503, "policy_unreachable")
            assert caught.value.retry_after == 1.0
        assert point.count == 2
        point.answer = lambda _: decision("Permit")
        assert await decided(policy, access())


async def test_point_that_is_down_is_503(caplog: pytest.LogCaptureFixture) -> None:
    url = f"http://user:hunter2@127.0.0.1:{closed_port()}/pdp?key=hunter2"
    async with asking(XACML(url)) as policy:
        with pytest.raises(ServerError) as caught:
            await decided(policy, access())
    assert caught.value.code == "policy_unreachable"
    assert "hunter2" not in str(caught.value) + caplog.text + policy.place


async def test_slow_point_is_503_and_others_are_answered_meanwhile(point: Peer) -> None:
    async with asking(XACML(point.url), timeout=0.05) as policy:
        patient = Policy(XACML(point.url), timeout=10)
        assert await decided(policy, access())
        point.hold()
        slow = access(resource="model:slow:1")
        waits = asyncio.ensure_future(decided(patient, slow))
        assert policy.check(access()) is None  # what is known is answered at once
        with pytest.raises(ServerError) as caught:
            await decided(policy, slow)
        assert caught.value.code == "policy_unreachable"
        assert not waits.done()
        point.release()
        assert await waits
        await patient.aclose()


async def test_equal_questions_are_asked_once(point: Peer) -> None:
    point.hold()
    async with asking(XACML(point.url), timeout=10) as policy:
        many = [asyncio.ensure_future(decided(policy, access())) for _ in range(50)]
        await asyncio.to_thread(point.wait_asked)
        many[0].cancel()  # one who goes away does not end it for the others
        point.release()
        assert all(await asyncio.gather(*many[1:]))
    assert point.count == 1


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize("word", ["Permit", "Deny"])
async def test_decision_holds_for_a_while(point: Peer, word: str) -> None:
    clock = Clock()
    point.answer = lambda _: decision(word)
    async with asking(XACML(point.url), ttl=10, clock=clock) as policy:
        first = await decided(policy, access())
        assert await decided(policy, access()) is first is (word == "Permit")
        assert point.count == 1
        clock.now = 11
        point.answer = lambda _: decision("Permit" if word == "Deny" else "Deny")
        assert await decided(policy, access()) is not first
        assert point.count == 2


async def test_user_and_password_of_the_address_are_sent_as_a_header(
    point: Peer, caplog: pytest.LogCaptureFixture
) -> None:
    url = f"http://user:hunter2@127.0.0.1:{point.port}/pdp?key=hunter2"
    with caplog.at_level(logging.DEBUG):
        async with asking(XACML(url)) as policy:
            assert await decided(policy, access())
    assert point.headers[0][b"authorization"] == b"Basic dXNlcjpodW50ZXIy"
    assert "hunter2" not in caplog.text


async def test_without_a_time_nothing_is_remembered(point: Peer) -> None:
    async with asking(XACML(point.url), ttl=0) as policy:
        assert await decided(policy, access())
        assert await decided(policy, access())
        assert point.count == 2


@pytest.mark.parametrize(
    "other",
    [
        access(Principal("bob", "user", ALICE.roles)),
        access(Principal("alice", "key", ALICE.roles)),
        access(Principal("alice", "user", ("reader",))),
        access(action=Action.LOAD),
        access(resource="model:digits:3"),
        access(context=RequestContext("10.0.0.8", "POST", "/predict/digits")),
        access(context=RequestContext("10.0.0.7", "PUT", "/predict/digits")),
        access(context=RequestContext("10.0.0.7", "POST", "/predict/other")),
    ],
)
async def test_a_decision_is_for_one_question(point: Peer, other: Access) -> None:
    async with asking(XACML(point.url)) as policy:
        assert await decided(policy, access())
        point.answer = lambda _: decision("Deny")
        assert not await decided(policy, other)
        assert await decided(policy, access())


@pytest.mark.parametrize("length", [256, 60_000])
async def test_long_paths_are_told_apart_and_not_kept(point: Peer, length: int) -> None:
    paths = ["/" + "x" * (length - 2) + last for last in "ab"]
    asked = [access(context=RequestContext("10.0.0.7", "POST", path)) for path in paths]
    async with asking(XACML(point.url)) as policy:
        assert await decided(policy, asked[0])
        point.answer = lambda _: decision("Deny")
        assert not await decided(policy, asked[1])
        assert len(repr(list(policy._decisions))) < 2000


def test_models_of_long_names_are_told_apart() -> None:
    """The name of a folder has up to 255 characters."""
    assert model_resource("x" * 254 + "a") != model_resource("x" * 254 + "b")


async def test_remembers_a_limited_number(point: Peer, monkeypatch: pytest.MonkeyPatch) -> None:
    from socaity_server.auth import policy as module

    monkeypatch.setattr(module, "_MOST_DECISIONS", 3)
    async with asking(XACML(point.url)) as policy:
        for number in range(10):
            assert await decided(policy, access(resource=f"model:{number}:1"))
        assert len(policy._decisions) == 3
        assert not policy._asked


async def test_open_policy_agent_is_asked_with_an_input(point: Peer) -> None:
    point.answer = lambda _: {"result": True}
    async with asking(OpenPolicyAgent(point.url)) as policy:
        assert await decided(policy, access())
    assert json.loads(point.bodies[0]) == {
        "input": {
            "user": "alice",
            "kind": "user",
            "roles": ["reader", "writer"],
            "action": "infer",
            "resource": "model:digits:2",
            "ip": "10.0.0.7",
            "method": "POST",
            "path": "/predict/digits",
        }
    }


def test_open_policy_agent_alone_has_a_usual_document() -> None:
    assert OpenPolicyAgent("http://opa:8181").url == "http://opa:8181/v1/data/socaity/allow"
    assert OpenPolicyAgent("http://opa:8181/").url == "http://opa:8181/v1/data/socaity/allow"
    assert OpenPolicyAgent("http://opa:8181/v1/data/a/b").url == "http://opa:8181/v1/data/a/b"


@pytest.mark.parametrize("answer", [{"result": False}, {}])
async def test_false_or_undefined_document_is_a_no(point: Peer, answer: Any) -> None:
    point.answer = lambda _: answer
    async with asking(OpenPolicyAgent(point.url)) as policy:
        assert not await decided(policy, access())


@pytest.mark.parametrize(
    "junk", [{"result": "true"}, {"result": 1}, {"result": {"allow": True}}, b"[true]", b"x", (404, {})]
)
async def test_document_that_is_no_boolean_is_503(point: Peer, junk: Any) -> None:
    point.answer = lambda _: junk
    async with asking(OpenPolicyAgent(point.url)) as policy:
        with pytest.raises(ServerError, match="so it is not done"):
            await decided(policy, access())


async def test_decision_point_that_is_down_is_a_few_lines_in_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with asking(OpenPolicyAgent(f"http://127.0.0.1:{closed_port()}"), ttl=0.0) as policy:
        for _ in range(50):
            with pytest.raises(ServerError):
                await decided(policy, access())
    assert 0 < caplog.text.count("cannot be asked") < 10


async def test_policies_tell_models_and_actions_apart(point: Peer) -> None:
    def rules(question: dict[str, Any]) -> dict[str, bool]:
        asked = question["input"]
        return {
            "result": "writer" in asked["roles"]
            or (asked["action"], asked["resource"]) == ("infer", "model:a:1")
        }

    point.answer = rules
    reader = Principal("bob", "user", ("x", "reader"))
    async with asking(OpenPolicyAgent(point.url)) as policy:
        assert await decided(policy, access(reader, Action.INFER, "model:a:1"))
        assert not await decided(policy, access(reader, Action.INFER, "model:b:1"))
        assert not await decided(policy, access(reader, Action.METADATA, "model:a:1"))
        assert await decided(policy, access(ALICE, Action.UNLOAD, "model:b:1"))


async def test_decisions_are_in_the_log_only_where_it_is_asked_for(
    point: Peer, caplog: pytest.LogCaptureFixture
) -> None:
    async with asking(XACML(point.url)) as policy:
        with caplog.at_level(logging.INFO):
            await decided(policy, access())
        assert not caplog.records
        with caplog.at_level(logging.DEBUG, "socaity_server.auth.policy"):
            await decided(policy, access(resource="model:b:1"))
            await decided(policy, access(resource="path:/x\nWARNING: made up"))
        assert "\nWARNING: made up" not in caplog.text
        assert "'user:alice': infer on 'model:b:1': True" in caplog.text
