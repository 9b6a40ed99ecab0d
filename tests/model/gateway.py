"""The gateway as the model test drives it: two workers on a real database, and beside them the model."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from copy import deepcopy
from dataclasses import replace
from itertools import cycle, permutations
from math import inf
from typing import TYPE_CHECKING, Any, cast
from uuid import UUID

import orjson
import pytest

from service.domain.ids import new_id
from service.domain.message import MessageStatus, Traffic
from service.domain.outcome import OPTED_OUT, Outcome, Rejected
from service.errors import Problem
from service.http import Transport
from service.pipeline.accept import Accept
from service.pipeline.notify import Notify
from service.pipeline.recover import Recover
from service.providers.adapter import Capabilities
from service.runtime import Runtime
from service.storage.messages import Batch, Key, NewMessage
from service.storage.outbox import Delivery, DueTarget, Outbox
from service.storage.receipts import News
from tests import rows
from tests.model.edges import Answer, Hooks, Kind, Providers
from tests.model.model import VALIDITY_S, Attempt, Keys, Message
from tests.pipeline.world import SECRET, World, config

if TYPE_CHECKING:
    from service.pipeline.deliver import Deliver


class _Watched(Outbox):
    """Tells of each look how many webhooks were claimed. Where no target may be called nothing is."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.found: asyncio.Queue[int] = asyncio.Queue()

    async def due_targets(self, *args: Any) -> tuple[list[DueTarget], str]:
        due, more = await super().due_targets(*args)
        if all(target.blocked for target in due):
            self.found.put_nowait(0)
        return due, more

    async def claim(self, *args: Any) -> list[Delivery]:
        found = await super().claim(*args)
        self.found.put_nowait(len(found))
        return found


class _Hands:
    """What `Recover` asks of a `Deliver`: here the test holds the tasks, and not the lanes."""

    claiming_since_s = inf

    def __init__(self, under_way: list[UUID]) -> None:
        self.under_way = under_way


class Gateway:
    """Every method does something to the gateway and tells the model of it. `check` compares the two."""

    def __init__(self, base: Runtime, client_id: UUID, *, keys: bool) -> None:
        self.base = base
        self._client_id = client_id
        self._capabilities = Capabilities(idempotency_key=keys, validity_period=True)
        self.providers = Providers(keys)
        self.hooks = Hooks()
        self.messages: dict[UUID, Message] = {}
        self.hanging: list[tuple[Message, asyncio.Future[Answer]]] = []
        self.workers: list[World] = []
        self._recovers: list[Recover] = []
        self._hands: list[_Hands] = []
        self._dead: set[UUID] = set()
        self._keys = Keys()
        self._suppressed: set[str] = set()
        self._endpoint_on = True
        self._tasks: dict[asyncio.Task[None], tuple[World, Message]] = {}
        self._stirred = asyncio.Event()
        self._scripts: dict[UUID, Any] = {}
        self._faults: list[Exception] = []
        self._transports: list[Transport] = [self.hooks]

    @classmethod
    async def open(cls, base: Runtime, *, keys: bool) -> Gateway:
        """On the emptied database, with one registered endpoint."""
        await rows.empty(base.database)
        await base.database.execute("DELETE FROM moves")
        sealed = base.keyring.seal(SECRET)
        gateway = cls(base, await rows.a_client(base.database, sealed_secret=sealed), keys=keys)
        await base.endpoints.add(new_id(), gateway._client_id, "http://endpoint.example/", sealed, None)
        for slot in range(2):
            await gateway._start(slot)
        return gateway

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for transport in self._transports:
            await transport.aclose()

    async def _start(self, slot: int) -> None:
        world = World(self.base, self._client_id, config(), self._capabilities)
        self._transports.append(world.http)
        await world.lease.begin()
        for provider in ("primary", "fallback"):
            world.http.always(provider, lambda: self._play(world))
        if self.workers:
            world.ahead_s = self.workers[0].ahead_s
        notify = Notify(replace(world.runtime, webhook_http=self.hooks), world.lease)
        hands = _Hands([])
        recover = Recover(world.runtime, world.lease, cast("Deliver", hands), world.receive, notify)
        self.workers[slot : slot + 1], self._hands[slot : slot + 1] = [world], [hands]
        self._recovers[slot : slot + 1] = [recover]

    # What callers do

    def _new(self, to: str, traffic: str, callback_url: str | None) -> NewMessage:
        validity_s = VALIDITY_S[traffic]
        return rows.a_message(self._client_id, to=to, traffic=traffic, callback_url=callback_url, validity_s=validity_s)

    def _accepted(self, new: NewMessage) -> None:
        def hooks() -> int:
            return int(new.callback_url is not None or self._endpoint_on)

        self.messages[new.id] = Message(new.id, new.to, new.traffic, hooks, new.validity_s)

    async def send(
        self, to: str, traffic: str, callback_url: str | None, key: str | None = None, copies: int = 1
    ) -> None:
        """The same request several times at once: with a key, all are one."""
        body, earlier = f"{to} {traffic} {callback_url}", self._keys.earlier(key)
        asked = [self._new(to, traffic, callback_url) for _ in range(copies)]
        sent = None if key is None else Key(self._client_id, "send", key, body.encode())
        accept = Accept(self.workers[0].runtime)
        answers = await asyncio.gather(*(accept.send(new, sent) for new in asked), return_exceptions=True)
        if earlier is not None and earlier[0] != body:
            assert all(isinstance(answer, Problem) and answer.code == "idempotency_key_reused" for answer in answers)
            return
        ids = [answer.message_id for answer in answers if not isinstance(answer, BaseException)]
        assert len(ids) == copies, answers
        assert key is None or len(set(ids)) == 1
        for new in asked:
            if new.id in ids:
                assert earlier is None, "a replay has made a message"
                self._accepted(new)
        if earlier is None:
            self._keys.keep(key, body, ids[0])
        else:
            assert ids == [earlier[1]] * copies

    async def bulk(self, numbers: Sequence[str], traffic: str, key: str | None) -> None:
        """Numbers sorted and each once, as the API makes them."""
        name = None if key is None else f"bulk {key}"
        body, earlier = f"{numbers} {traffic}", self._keys.earlier(name)
        new = [self._new(to, traffic, None) for to in numbers]
        batch = Batch(new_id(), self._client_id, 0, b"answer")
        sent = None if key is None else Key(self._client_id, "bulk", key, body.encode())
        asking = Accept(self.workers[0].runtime).bulk(batch, new, sent)
        if earlier is not None and earlier[0] != body:
            with pytest.raises(Problem, match="idempotency_key_reused"):
                await asking
            return
        _, replayed = await asking
        assert replayed is (earlier is not None)
        if not replayed:
            self._keys.keep(name, body, batch.id)
            for one in new:
                self._accepted(one)

    async def cancel(self, message: Message) -> None:
        _, done = await self.base.messages.cancel(message.id, self._client_id)
        assert done is message.cancel()

    async def suppress(self, number: str) -> None:
        await self.base.suppressions.add(self._client_id, [number], reason="asked", source="test")
        self._suppressed.add(number)

    # What providers do

    async def _play(self, world: World) -> Outcome:
        """One call to a provider."""
        try:
            return await self._called(world)
        except AssertionError as fault:
            self._faults.append(fault)  # the worker would take it for an error of its own
            raise

    async def _called(self, world: World) -> Outcome:
        call, worker = world.http.calls[-1], world.lease.worker_id
        token = orjson.loads(call.body)["callback_url"].rpartition("/")[2]
        attempt_id = self.base.keyring.read_token(call.provider, token)
        assert attempt_id is not None
        message = self.messages[UUID(hex=call.key.partition(":")[0])]
        attempt = Attempt(call.provider, call.key, call.body)
        message.call(worker, attempt_id, attempt, keys=self.providers.keys)
        answer: Answer = next(self._scripts[message.id])
        if answer.kind is Kind.HANGS:
            told: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
            self.hanging.append((message, told))
            self._stirred.set()
            answer = await told
        outcome = self.providers.take(message.id, attempt_id, call.key, answer.kind)
        if self.providers.has(message.id, attempt_id):
            for said in answer.early:
                await self._apply(attempt_id, said)
                message.receipt(attempt_id, said)
        if outcome == Rejected(OPTED_OUT):
            self._suppressed.add(message.to)
        message.answer(attempt_id, worker, outcome)
        return outcome

    async def _apply(self, attempt_id: UUID, said: str) -> None:
        await self.workers[0].receive.apply(News("primary", attempt_id, None, said, None, None, None))

    def reportable(self) -> list[tuple[Message, UUID]]:
        """What providers can report on."""
        return [
            (self.messages[message_id], attempt_id)
            for message_id, accepted in self.providers.ledger.items()
            for attempt_id in accepted.values()
        ]

    async def receipts(self, reports: Sequence[tuple[Message, UUID, str]]) -> None:
        """Receipts that come at once: the end must be as if they had come one by one, in some order."""
        await asyncio.gather(*(self._apply(attempt_id, said) for _, attempt_id, said in reports))
        for message in {id(message): message for message, _, _ in reports}.values():
            own = [(attempt_id, said) for of, attempt_id, said in reports if of is message]
            found = await self._state(message.id)
            for order in permutations(own):
                one = deepcopy(self.messages[message.id])  # an earlier report may have replaced `message`
                for attempt_id, said in order:
                    one.receipt(attempt_id, said)
                if one.state == found:
                    break
            else:
                raise AssertionError(f"{message} is {found} after {own}")
            self.messages[message.id] = one

    # What workers do

    async def work(self, slot: int, answers: Iterable[Answer]) -> None:
        """A worker claims what is due and works on it until it is settled or hangs at a provider."""
        world, script = self.workers[slot], list(answers)
        claimed = [found for lane in Traffic for found in await world.queue.claim(lane, world.lease.worker_id, {}, 100)]
        for found in claimed:
            message = self.messages[found.id]
            message.claim(world.lease.worker_id, suppressed=message.to in self._suppressed)
            # Every message begins at another place of the script.
            place = list(self.messages).index(message.id) % len(script)
            self._scripts[message.id] = cycle([*script[place:], *script[:place], Answer()])
            self._tasks[asyncio.create_task(world.deliver.deliver(found))] = world, message
        await self._until_still()
        for message in self.messages.values():
            assert message.status != "queued" or message.attempts or message.left_s > 0, "a stale message waits"

    async def answer(self, place: int, answer: Answer) -> None:
        """A provider answers a call that hung."""
        _, told = self.hanging.pop(place)
        told.set_result(answer)
        await self._until_still()

    async def _until_still(self) -> None:
        """Until each task has ended or hangs."""
        while True:
            self._stirred.clear()
            for task in [task for task in self._tasks if task.done()]:
                await self._finish(*self._tasks.pop(task))
            if len(self._tasks) == len(self.hanging):
                break
            stirred = asyncio.create_task(self._stirred.wait())
            await asyncio.wait({stirred, *self._tasks}, timeout=30, return_when=asyncio.FIRST_COMPLETED)
            stirred.cancel()
        if self._faults:
            raise self._faults[0]

    async def _finish(self, world: World, message: Message) -> None:
        worker, message = world.lease.worker_id, self.messages[message.id]
        row = await rows.row(self.base.database, message.id)
        if row["worker_id"] == worker:
            assert worker in self._dead or message.left_s <= 0, "a worker keeps a message that it is done with"
            return  # recovery frees it
        state = row["status"], row["reason"] if MessageStatus(row["status"]).terminal else None
        allowed = message.release(worker, suppressed=message.to in self._suppressed)
        assert state in allowed, f"{message} is {state}, not {allowed}"
        message.settle(worker, state)

    async def die(self, slot: int, *, stands_still: bool) -> None:
        """A worker's lease ends: it is gone with all that it did, or goes on later. Another one takes its place."""
        world = self.workers[slot]
        self._dead.add(world.lease.worker_id)
        await rows.end_lease(self.base.database, world.lease.worker_id)
        if not stands_still:
            gone = [task for task, (of, _) in self._tasks.items() if of is world]
            for task in gone:
                _, message = self._tasks.pop(task)
                self.hanging = [(of, told) for of, told in self.hanging if of.id != message.id or told.done()]
                task.cancel()
            await asyncio.gather(*gone, return_exceptions=True)
        await self._start(slot)

    def waits_for_recovery(self) -> bool:
        """Whether there is somebody dead, a message in somebody's hands, or one that waits for a receipt."""
        return bool(self._dead) or any(m.turn is not None or m.status == "sent" for m in self.messages.values())

    async def recover(self, slot: int) -> None:
        world = self.workers[slot]
        self._hands[slot].under_way = [message.id for of, message in self._tasks.values() if of is world]
        await self._recovers[slot].round()
        under_way = {(of.lease.worker_id, message.id) for of, message in self._tasks.values()}
        for message in self.messages.values():
            if message.turn is not None:
                worker = message.turn.worker
                freed = (await rows.row(self.base.database, message.id))["worker_id"] is None
                assert freed or worker not in self._dead, "a dead worker's message is not taken over"
                assert not freed or worker in self._dead or (worker, message.id) not in under_way
                if freed:
                    message.taken_over(worker)
            message.give_up_on_receipt()
        self._dead.clear()

    async def notify(self, slot: int, statuses: dict[str, int]) -> None:
        """A worker sends every webhook that is due; the hosts answer with these statuses."""
        world, self.hooks.statuses = self.workers[slot], statuses
        outbox = _Watched(self.base.database)
        notify = Notify(replace(world.runtime, webhook_http=self.hooks, outbox=outbox), world.lease)
        running = asyncio.create_task(notify.run())
        async with asyncio.timeout(60):
            while await outbox.found.get():
                await notify.drain(10)
                world.runtime.hints.webhooks.set()
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        endpoints = await self.base.endpoints.all(self._client_id)
        self._endpoint_on = endpoints[0].disabled_at is None

    async def pass_time(self, seconds: float) -> None:
        await self.base.database.execute("SELECT pass_time(make_interval(secs => $1))", float(seconds))
        for world in self.workers:
            world.ahead_s += seconds
        for message in self.messages.values():
            message.left_s -= seconds
        self._keys.age(seconds)

    async def _state(self, message_id: UUID) -> tuple[str, str | None]:
        row = await rows.row(self.base.database, message_id)
        return row["status"], row["reason"] if MessageStatus(row["status"]).terminal else None
