"""Clients as the contract wants them: they keep what they were answered, and repeat with the same Idempotency-Key."""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Self

import aiohttp
import orjson

from tests.chaos.stage import CLIENTS, Stage

POISON: Final = "poison"
"""PostgreSQL refuses a message with this in its text (`arm_poison`)."""

_ANSWERED_WITHIN_S: Final = 4.0
_AGAIN: Final = frozenset({0, 429, 503})
_SENDERS: Final = ("MyAppOTP", "MyApp", "MyAppPromo")
_NUMBERS: Final = itertools.count()
_ENDINGS: Final = ("0200", "0210", "0220", "0230", "0240", "0250", "0260", "0270", "0280", "0300")


@dataclass(slots=True)
class Record:
    """One request of a client and all that it was answered. `to_ids`: number -> every message id given for it."""

    name: str
    client: str
    path: str
    key: str
    body: dict[str, Any]
    statuses: list[int] = field(default_factory=list)
    codes: list[str] = field(default_factory=list)
    to_ids: dict[str, list[str]] = field(default_factory=dict)
    cancelled: int | None = None
    """The status of the answer to a cancel; 0: no answer came."""

    @property
    def poisonous(self) -> bool:
        return POISON in self.body["message"]

    @property
    def surprise(self) -> str | None:
        """An answer that the contract does not know."""
        for status, code in zip(self.statuses, self.codes, strict=True):
            expected = {0, 200, 429, 503} if not self.poisonous else {0, 422, 429, 503}
            if status not in expected or (self.poisonous and status == 422 and code != "unstorable"):
                return f"{self.name}: {status} {code}"
        return None if {200, 422} & set(self.statuses) or not self.key else f"{self.name}: never answered"


class Clients:
    """`run` sends about `rate` messages a second for a while; `records` has all of it. An async context manager.

    Webhooks go to one of `callbacks` each; None: to the endpoints that the client has registered.
    """

    def __init__(self, stage: Stage, seed: int, rate: float, callbacks: Sequence[str | None]) -> None:
        self.records: list[Record] = []
        self._stage = stage
        self._rng = chance(seed)
        self._round = f"{seed:x}-{time.time_ns():x}"
        self._rate = rate
        self._callbacks = callbacks
        self._requests: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        timeout = aiohttp.ClientTimeout(total=_ANSWERED_WITHIN_S)
        self._http = aiohttp.ClientSession(timeout=timeout, connector=aiohttp.TCPConnector(limit=0))
        return self

    async def __aexit__(self, *_: object) -> None:
        for request in self._requests:
            request.cancel()
        await asyncio.gather(*self._requests, return_exceptions=True)
        await self._http.close()

    @property
    def prefix(self) -> str:
        """Every message of this round has a reference that begins with it."""
        return self._round

    async def run(self, seconds: float) -> None:
        """Send; then the requests that have no answer yet go on until `finish`."""
        ends_s = time.monotonic() + seconds
        next_s = time.monotonic()
        while next_s < ends_s:
            await asyncio.sleep(max(0, next_s - time.monotonic()))
            task = asyncio.create_task(self._request(self._record()))
            self._requests.add(task)
            next_s += self._rng.expovariate(self._rate / 1.45)  # a request in twenty is a bulk of ten

    async def finish(self, within_s: float) -> None:
        """Wait until every request has its answer; those without one by then stay without."""
        done, _ = await asyncio.wait(self._requests, timeout=within_s)
        for task in done:
            task.result()

    def _record(self) -> Record:
        rng, number = self._rng, len(self.records)
        bulk = rng.random() < 0.05
        sender = rng.choices(_SENDERS, (3, 5, 2))[0]
        body: dict[str, Any] = {
            "from": sender,
            "message": f"Your code is {number:06}." + (f" {POISON}" if rng.random() < 0.01 else ""),
            "reference": f"{self._round}:{number}",
            "validity_period": rng.randint(25, 60),
        }
        if (callback := rng.choice(self._callbacks)) is not None:
            body["callback_url"] = callback
        if bulk:
            body["recipients"] = [self._to() for _ in range(10)]
        else:
            body["to"] = self._to()
        key = f"{self._round}:{number}" if rng.random() < 0.85 else ""
        record = Record(
            f"{self._round}:{number}", rng.choice(CLIENTS), "/v1/send/bulk" if bulk else "/v1/send", key, body
        )
        if not bulk and rng.random() < 0.03:
            at = time.time() + rng.uniform(1, 5)
            body["send_at"] = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(at))
            record.cancelled = 0
        self.records.append(record)
        return record

    def _to(self) -> str:
        """A number that no other message has; what becomes of it is in its last digits (the simulator's table)."""
        ending = self._rng.choice(_ENDINGS) if self._rng.random() < 0.2 else "0100"
        number = next(_NUMBERS)
        return f"+1{200 + number // 1000 % 700}{number % 1000:03}{ending}"

    async def _request(self, record: Record) -> None:
        rng = chance(record.name)
        repeats = 1 if rng.random() < 0.1 else 0
        while True:
            status, reply = await self._post(record)
            code = reply.get("code", "")
            record.statuses.append(status)
            record.codes.append(code)
            if status == 200:
                for result in reply.get("results", [reply]):
                    if "message_id" in result:
                        record.to_ids.setdefault(result["to"], []).append(result["message_id"])
                if record.cancelled is not None:
                    await self._cancel(record, reply["message_id"], rng)
                if not record.key or repeats == 0:
                    return
                repeats -= 1
            # Without a key a repeat is safe only when nothing was stored.
            elif status not in _AGAIN or not (record.key or code == "overloaded"):
                return
            await asyncio.sleep(rng.uniform(0.2, 1.0))

    async def _cancel(self, record: Record, message_id: str, rng: random.Random) -> None:
        await asyncio.sleep(rng.uniform(0, 3))
        record.cancelled, _ = await self._call(record.client, f"/v1/messages/{message_id}/cancel", None, {})

    async def _post(self, record: Record) -> tuple[int, dict[str, Any]]:
        headers = {"Idempotency-Key": record.key} if record.key else {}
        return await self._call(record.client, record.path, record.body, headers)

    async def _call(
        self, client: str, path: str, body: dict[str, Any] | None, headers: dict[str, str]
    ) -> tuple[int, dict[str, Any]]:
        """Status and reply; 0 and nothing when no whole answer came, nothing when it is not JSON."""
        headers = headers | {"Authorization": f"Bearer {self._stage.api_keys[client]}"}
        try:
            async with self._http.post(f"{self._stage.door.url}{path}", json=body, headers=headers) as answer:
                status, content = answer.status, await answer.read()
        except (aiohttp.ClientError, TimeoutError):
            return 0, {}
        try:
            return status, orjson.loads(content)
        except orjson.JSONDecodeError:
            return status, {}


def chance(seed: int | str) -> random.Random:
    """Chance that can be repeated."""
    return random.Random(seed)  # noqa: S311 - no secret


async def arm_poison(stage: Stage) -> None:
    """Have PostgreSQL refuse every message whose text holds `POISON`."""
    await stage.execute(
        f"""
        CREATE FUNCTION refuse_poison() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            RAISE 'poison' USING ERRCODE = '22023';
        END $$;
        CREATE TRIGGER poison BEFORE INSERT ON messages FOR EACH ROW
        WHEN (NEW.body LIKE '%{POISON}%') EXECUTE FUNCTION refuse_poison()
        """
    )
