from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from service.cli.caller import Caller, GatewayUnreachable, RequestRefused
from service.errors import ConfigurationError
from tests.cli.running import free_ports
from tests.cli.scripted import Answer, Scripted, scripted

BAD_SENDER = {"code": "unknown_sender", "detail": "No.", "errors": [{"field": "from", "detail": "Use another."}]}
BAD_KEY = {"code": "unauthorized", "detail": "Use a living key."}


@contextmanager
def calling(*answers: Answer) -> Iterator[tuple[Caller, Scripted, list[float]]]:
    """A caller of a gateway that answers so, and how long it waited each time."""
    slept: list[float] = []
    with scripted(*answers) as server, Caller(server.url, "key", sleep=slept.append) as caller:
        yield caller, server, slept


def test_a_request_that_could_not_be_stored_is_repeated_with_its_key() -> None:
    later: Answer = (503, {"Retry-After": "1"}, {})
    with calling(later, later, (200, {}, {"message_id": "msg_1"})) as (caller, server, slept):
        assert caller.post("/v1/send", {"to": "+1"}, "one") == ({"message_id": "msg_1"}, False)

    assert server.requests == [("POST", "/v1/send", "one", {"to": "+1"})] * 3
    assert slept == [1.0, 2.0]


def test_an_answer_of_before_is_told_apart() -> None:
    with calling((200, {"Idempotency-Replayed": "true"}, {})) as (caller, _, _):
        assert caller.post("/v1/send", {}, "one") == ({}, True)


def test_a_limit_is_waited_for_as_told() -> None:
    with calling((429, {"Retry-After": "60"}, {}), (200, {}, {"ok": 1})) as (caller, _, slept):
        assert caller.get("/v1/hlr/+1") == {"ok": 1}

    assert slept == [60.0]


@pytest.mark.parametrize(
    ("url", "api_key"), [("http://gateway:port", "key"), ("gateway", "key"), ("http://[::1]", "ü")]
)
def test_what_cannot_be_a_gateway_or_a_key_is_refused_at_once(url: str, api_key: str) -> None:
    with pytest.raises(ConfigurationError):
        Caller(url, api_key)


def test_a_gateway_that_never_answers_is_given_up_after_ten_seconds() -> None:
    slept: list[float] = []
    url = f"http://127.0.0.1:{free_ports()}"
    with pytest.raises(GatewayUnreachable, match="Is it running"), Caller(url, "key", sleep=slept.append) as caller:
        caller.get("/v1/hlr/+1")

    assert 8 < sum(slept) <= 10


@pytest.mark.parametrize(
    ("problem", "said"),
    [(BAD_SENDER, "422 unknown_sender\n  from: Use another."), (BAD_KEY, "422 unauthorized\n  Use a living key.")],
)
def test_a_refusal_says_what_to_do(problem: dict[str, object], said: str) -> None:
    with calling((422, {}, problem)) as (caller, _, _), pytest.raises(RequestRefused) as refused:
        caller.get("/v1/send")

    assert str(refused.value) == said


def test_what_is_no_gateway_is_told() -> None:
    with calling((200, {}, "<html>")) as (caller, _, _), pytest.raises(GatewayUnreachable) as unreachable:
        caller.get("/v1/send")

    assert "is not a gateway" in str(unreachable.value)
