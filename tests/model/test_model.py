"""Accept, deliver, receive, notify: whatever happens in whatever order, the gateway does what the model says."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from collections.abc import Coroutine, Iterator
from contextlib import AbstractAsyncContextManager
from typing import Any
from uuid import UUID

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from service.environment import Environment
from service.runtime import Runtime, open_runtime
from service.settings import Settings
from tests.gateway import SECRET_KEY
from tests.model.checks import WATCH, check, drain
from tests.model.edges import Answer, Kind
from tests.model.gateway import Gateway
from tests.model.model import OWN_GUESSES, Message
from tests.pipeline.world import config

NUMBERS = st.sampled_from(["+15555550100", "+15555550101", "+447700900123"])
TRAFFIC = st.sampled_from(["otp", "otp", "transactional", "marketing"])
CALLBACKS = st.sampled_from(["http://shop.example/hook", "http://other.example/hook", None])
KEYS = st.sampled_from([None, "k1", "k2"])
SAID = st.sampled_from(["sent", "delivered", "undelivered", "failed", "unknown"])
EARLY = st.lists(SAID, max_size=2).map(tuple)
ANSWERS = st.builds(Answer, st.sampled_from([*Kind, Kind.ACCEPTED, Kind.LOST]), EARLY)
SOON = st.builds(Answer, st.sampled_from([kind for kind in Kind if kind is not Kind.HANGS]), EARLY)
SLOTS = st.integers(0, 1)
PLACES = st.integers(0, 100)
STATUSES = st.fixed_dictionaries(
    {f"{host}.example": st.sampled_from([204, 204, 500, 429, 410]) for host in ("shop", "other", "endpoint")}
)


class Life(RuleBasedStateMachine):
    """What may happen to a gateway."""

    runner: asyncio.Runner
    base: Runtime

    def run(self, doing: Coroutine[Any, Any, None]) -> None:
        self.runner.run(doing)

    @initialize(
        keys=st.booleans(),
        first=st.lists(st.tuples(NUMBERS, TRAFFIC, CALLBACKS), min_size=2, max_size=4),
        answers=st.lists(ANSWERS, min_size=1, max_size=4),
    )
    def begin(self, keys: bool, first: list[tuple[str, str, str | None]], answers: list[Answer]) -> None:
        self.gateway = self.runner.run(Gateway.open(self.base, keys=keys))
        for to, traffic, callback_url in first:
            self.run(self.gateway.send(to, traffic, callback_url))
        self.run(self.gateway.work(0, answers))

    @rule(to=NUMBERS, traffic=TRAFFIC, callback_url=CALLBACKS, key=KEYS, copies=st.integers(1, 3))
    def a_caller_sends(self, to: str, traffic: str, callback_url: str | None, key: str | None, copies: int) -> None:
        self.run(self.gateway.send(to, traffic, callback_url, key, copies))

    @rule(numbers=st.sets(NUMBERS, min_size=1).map(sorted), traffic=TRAFFIC, key=KEYS)
    def a_caller_sends_a_bulk(self, numbers: list[str], traffic: str, key: str | None) -> None:
        self.run(self.gateway.bulk(numbers, traffic, key))

    @precondition(lambda self: any(message.status != "cancelled" for message in self.gateway.messages.values()))
    @rule(place=PLACES)
    def a_caller_cancels(self, place: int) -> None:
        messages = [message for message in self.gateway.messages.values() if message.status != "cancelled"]
        self.run(self.gateway.cancel(messages[place % len(messages)]))

    @precondition(lambda self: self.gateway.providers.ledger)
    @rule(number=NUMBERS)
    def a_number_is_suppressed(self, number: str) -> None:
        self.run(self.gateway.suppress(number))

    @rule(slot=SLOTS, answers=st.lists(ANSWERS, min_size=1, max_size=4), after_s=st.sampled_from([0, 0, 7, 1_500]))
    def a_worker_works(self, slot: int, answers: list[Answer], after_s: int) -> None:
        if after_s and not self.gateway.hanging:  # no call outlives its timeout, which is seconds
            self.run(self.gateway.pass_time(after_s))
        self.run(self.gateway.work(slot, answers))

    @precondition(lambda self: self.gateway.hanging)
    @rule(place=PLACES, answer=SOON)
    def a_hanging_call_is_answered(self, place: int, answer: Answer) -> None:
        self.run(self.gateway.answer(place % len(self.gateway.hanging), answer))

    @precondition(lambda self: self.gateway.reportable())
    @rule(reports=st.lists(st.tuples(PLACES, SAID), min_size=1, max_size=3))
    def receipts_come(self, reports: list[tuple[int, str]]) -> None:
        known = self.gateway.reportable()
        self.run(self.gateway.receipts([(*known[place % len(known)], said) for place, said in reports]))

    @precondition(lambda self: self.gateway.reportable())
    @rule(place=PLACES, said=SAID)
    def a_receipt_comes(self, place: int, said: str) -> None:
        known = self.gateway.reportable()
        self.run(self.gateway.receipts([(*known[place % len(known)], said)]))

    @precondition(lambda self: self._guessed())
    @rule(place=PLACES, said=SAID)
    def a_receipt_comes_after_we_gave_up_on_it(self, place: int, said: str) -> None:
        guessed = self._guessed()
        self.run(self.gateway.receipts([(*guessed[place % len(guessed)], said)]))

    def _guessed(self) -> list[tuple[Message, UUID]]:
        return [(message, attempt) for message, attempt in self.gateway.reportable() if message.reason in OWN_GUESSES]

    @rule(slot=SLOTS, stands_still=st.booleans())
    def a_worker_dies(self, slot: int, stands_still: bool) -> None:
        self.run(self.gateway.die(slot, stands_still=stands_still))

    @precondition(lambda self: self.gateway.waits_for_recovery())
    @rule(slot=SLOTS)
    def a_worker_recovers(self, slot: int) -> None:
        self.run(self.gateway.recover(slot))

    @precondition(lambda self: any(message.events for message in self.gateway.messages.values()))
    @rule(slot=SLOTS, statuses=STATUSES)
    def a_worker_notifies(self, slot: int, statuses: dict[str, int]) -> None:
        self.run(self.gateway.notify(slot, statuses))

    @precondition(lambda self: not self.gateway.hanging)
    @precondition(lambda self: all(message.status != "queued" for message in self.gateway.messages.values()))
    @rule(seconds=st.sampled_from([1_500, 150_000, 300_000]))
    def time_passes(self, seconds: int) -> None:
        self.run(self.gateway.pass_time(seconds))

    @invariant()
    def the_gateway_is_where_the_model_is(self) -> None:
        self.run(check(self.gateway))

    def teardown(self) -> None:
        if not hasattr(self, "gateway"):
            return
        try:
            if sys.exc_info()[0] is None:
                self.run(drain(self.gateway))
        finally:
            self.run(self.gateway.close())


@pytest.fixture
def silent() -> Iterator[None]:
    logging.disable(logging.ERROR)
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.usefixtures("silent")
def test_the_gateway_does_what_the_model_says(model_dsn: str) -> None:
    """`MODEL_PROGRAMS` says how many programs are tried (`scripts/fuzz --model 2000`)."""
    environment = Environment(database_url=model_dsn, secret_key=SECRET_KEY, public_url="https://sms.example")
    few = settings(
        max_examples=int(os.environ.get("MODEL_PROGRAMS", "40")),
        stateful_step_count=25,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        # To shrink a program takes minutes: only where somebody asked for a long run.
        phases=[Phase.generate, *([Phase.shrink] if "MODEL_PROGRAMS" in os.environ else [])],
    )
    with asyncio.Runner() as runner:
        opening = open_runtime(Settings(environment, config()))
        base = runner.run(_entered(opening))
        try:
            runner.run(_watched(base))
            run_state_machine_as_test(type("Life", (Life,), {"runner": runner, "base": base}), settings=few)
        finally:
            runner.run(_left(opening))


async def _entered(opening: AbstractAsyncContextManager[Runtime]) -> Runtime:
    return await opening.__aenter__()


async def _left(opening: AbstractAsyncContextManager[Runtime]) -> None:
    await opening.__aexit__(None, None, None)


async def _watched(base: Runtime) -> None:
    await base.database.execute(WATCH)
