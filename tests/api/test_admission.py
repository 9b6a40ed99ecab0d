"""No client takes what is there for the others: floods over real sockets, and who still gets in."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from uuid import UUID

import asyncpg
import httpx
import pytest
from starlette.requests import Request
from starlette.types import Message

from service.api.admission import Admission
from service.api.intake import read_body
from service.api.slots import Places, Turns, overloaded
from service.app import create_app
from service.domain.keyring import Keyring
from service.errors import Problem
from service.runtime import Runtime
from service.storage.messages import ACCEPTS_AT_ONCE
from tests.api.client import NUMBER, GatewayClient, body, bulk_body, problem
from tests.gateway import SECRET_KEY, make_key, open_gateway, serve
from tests.listener import Listener

PLACES = 8
WITHIN_S = 30.0
"""A deadline, not how long anything takes."""
CONFIG = """
providers:
  primary: {adapter: smsroute, base_url: "http://127.0.0.1:9", api_key: key}
  second: {adapter: smsroute, base_url: "http://127.0.0.1:9", api_key: key}
senders: {MyAppOTP: {traffic: otp}, MyApp: {traffic: transactional}}
routes: [{providers: [primary]}]
webhooks: {allow_loopback: true}
"""
OTP = body(**{"from": "MyAppOTP"})


def few() -> Admission:
    return Admission(
        checks=Places(2, overloaded),
        turned_away=Places(1),
        bodies=Places(PLACES),
        otps=Places(PLACES),
        sends=Places(PLACES),
        bulks=Places(PLACES),
        reads=Places(PLACES),
        changes=Places(PLACES),
        imports=Places(PLACES),
        trials=Places(2),
        operators=Places(PLACES),
        receipts=Places(PLACES, overloaded),
        read_turns=Turns(4, each=2, patience_s=WITHIN_S),
    )


@dataclass(frozen=True, slots=True)
class Gateway:
    """One that lets few in."""

    runtime: Runtime
    admission: Admission
    url: str
    stack: AsyncExitStack

    async def key(self, client: str) -> str:
        return await make_key(self.runtime, "send", "read", "admin", client=client)

    async def caller(self, key: str) -> GatewayClient:
        http = httpx.AsyncClient(base_url=self.url, headers={"Authorization": f"Bearer {key}"}, timeout=WITHIN_S)
        return GatewayClient(await self.stack.enter_async_context(http))

    async def half(self, path: str, key: str, kind: str = "application/json") -> asyncio.StreamReader:
        """A request whose head is whole and whose body never comes; where its answer would come from."""
        host, port = self.url.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        self.stack.callback(writer.close)
        head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: {kind}\r\nContent-Length: 100\r\n"
        writer.write(f"{head}Authorization: Bearer {key}\r\n\r\n".encode())
        return reader

    @asynccontextmanager
    async def flood(self, path: str, key: str, kind: str = "application/json") -> AsyncIterator[set[int]]:
        """While the body runs, twice as many half requests as there are places come again and again.

        Yields what those hear who find no place, once the first has heard it.
        """
        heard: set[int] = set()
        refused = asyncio.Event()

        async def come_again() -> None:
            while True:
                if (status := await _status(await self.half(path, key, kind))) != 400:
                    heard.add(status)
                    refused.set()
                await asyncio.sleep(0.05)

        coming = [asyncio.create_task(come_again()) for _ in range(2 * PLACES)]
        try:
            await asyncio.wait_for(refused.wait(), WITHIN_S)
            yield heard
        finally:
            for task in coming:
                task.cancel()
            await asyncio.wait(coming)

    def counted(self, method: str, route: str, status: int) -> float:
        """How many requests of that kind were answered so."""
        counter = self.runtime.metrics.requests.labels(method=method, route=route, status=str(status))
        return next(iter(counter.collect())).samples[0].value


async def _status(reader: asyncio.StreamReader) -> int:
    return int((await reader.readuntil(b"\r\n")).split()[1])


async def eventually(is_so: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(WITHIN_S):
        while not await is_so():  # noqa: ASYNC110 - there is no event: it is asked from outside
            await asyncio.sleep(0.01)


@pytest.fixture
async def gateway(dsn: str) -> AsyncIterator[Gateway]:
    admission = few()
    async with (
        open_gateway(CONFIG, dsn) as runtime,
        serve(create_app(runtime, admission)) as url,
        AsyncExitStack() as stack,
    ):
        yield Gateway(runtime, admission, url, stack)


@asynccontextmanager
async def locked(dsn: str, table: str) -> AsyncIterator[None]:
    """While the body runs nobody can read the table."""
    holder = await asyncpg.connect(dsn)
    try:
        async with holder.transaction():
            await holder.execute(f"LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE")
            yield
    finally:
        await holder.close()


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/v1/send", "application/json"),
        ("/v1/messages/preview", "application/json"),
        ("/v1/send/bulk", "application/json"),
        ("/v1/suppressions", "application/json"),
        ("/v1/suppressions/import", "text/csv"),
    ],
)
async def test_half_requests_of_one_client_are_bounded_and_all_others_get_in(
    gateway: Gateway, path: str, kind: str
) -> None:
    greedy = await gateway.key("greedy")
    other = await gateway.caller(await gateway.key("other"))
    operator = await gateway.caller(await make_key(gateway.runtime, "operator", client="operations"))
    for one in (other, await gateway.caller(greedy)):
        assert (await one.send(OTP)).status_code == 200  # its key is known from now on
    async with gateway.flood(path, greedy, kind) as heard:
        assert (await other.send(OTP)).status_code == 200
        assert (await other.bulk(bulk_body(NUMBER))).status_code == 200
        assert (await other.http.post("/v1/messages/preview", json=OTP)).status_code == 200
        assert (await other.http.get("/v1/messages")).status_code == 200
        assert (await other.http.post("/v1/suppressions", json={"number": NUMBER})).status_code == 200
        file = await other.http.post("/v1/suppressions/import", content=NUMBER, headers={"Content-Type": "text/csv"})
        assert file.status_code == 200
        assert (await operator.http.get("/v1/admin/clients")).status_code == 200
        assert (await operator.http.get("/healthz")).status_code == 200
        assert heard == {429}


async def test_whoever_asks_for_too_much_hears_that_it_is_its_own_doing(gateway: Gateway) -> None:
    key = await gateway.key("greedy")
    greedy = await gateway.caller(key)
    [row] = await gateway.runtime.database.fetch("SELECT id FROM clients WHERE name = 'greedy'")
    for _ in range(PLACES // 2):
        gateway.admission.changes.take(row["id"])
    refused = await greedy.http.post("/v1/suppressions", json={"number": NUMBER})
    assert problem(refused, 429).code == "too_many_at_once"
    assert int(refused.headers["retry-after"]) >= 1


async def test_wrong_keys_are_answered_before_their_bodies_and_hold_no_place(gateway: Gateway) -> None:
    readers = []
    for number in range(3 * PLACES):
        readers.append(await gateway.half("/v1/send", f"sk_wrong_{number}"))
        assert await _status(readers[-1]) == 401
    other = await gateway.caller(await gateway.key("other"))
    gateway.admission.bodies.take("somebody")  # of four free places one may have two: none has been taken
    assert (await other.send(OTP)).status_code == 200


async def test_so_many_unknown_keys_are_looked_for_at_once_and_known_ones_go_on(gateway: Gateway) -> None:
    known = await gateway.caller(await gateway.key("known"))
    assert (await known.send(OTP)).status_code == 200
    readers = [await gateway.half("/v1/send", f"sk_unknown_{number}") for number in range(20)]
    assert {await _status(reader) for reader in readers} == {401, 503}
    assert (await known.send(OTP)).status_code == 200


async def test_who_is_turned_away_waits_for_it_and_holds_up_nobody(gateway: Gateway) -> None:
    known = await gateway.caller(await gateway.key("known"))
    assert (await known.send(OTP)).status_code == 200
    for stranger in ("one", "another"):
        gateway.admission.checks.take(stranger)
    waiting = await gateway.half("/v1/send", "sk_unknown")

    async def is_waiting() -> bool:
        return gateway.admission.turned_away.taken == 1

    await eventually(is_waiting)
    assert await _status(await gateway.half("/v1/send", "sk_unknown")) == 503, "at once: only so many wait"
    assert (await known.send(OTP)).status_code == 200
    assert await _status(waiting) == 503


async def test_other_sends_of_a_client_shut_out_neither_its_otps_nor_those_of_others(gateway: Gateway) -> None:
    greedy, other = await gateway.caller(await gateway.key("greedy")), await gateway.caller(await gateway.key("other"))
    [row] = await gateway.runtime.database.fetch("SELECT id FROM clients WHERE name = 'greedy'")
    for _ in range(PLACES // 2):  # as its sends do while they wait for their commit
        gateway.admission.sends.take(row["id"])
    assert problem(await greedy.send(body()), 429).code == "too_many_at_once"
    assert (await greedy.send(OTP)).status_code == 200
    assert (await other.send(body())).status_code == 200


async def test_one_account_of_a_provider_does_not_fill_the_places_of_another(gateway: Gateway) -> None:
    keyring = Keyring(SECRET_KEY, None)

    def path(account: str) -> str:
        return f"/v1/receipts/{account}/{keyring.attempt_token(account, UUID(int=1))}"

    async with (
        gateway.flood(path("primary"), "none") as heard,
        httpx.AsyncClient(base_url=gateway.url) as http,
    ):
        for _ in range(PLACES):
            # Not understood, but heard.
            assert (await http.post(path("second"), content=b"{}")).status_code == 422
        assert heard == {503}


async def test_lists_that_hang_keep_no_send_waiting_nor_another_clients_list_nor_an_operator(
    gateway: Gateway, dsn: str
) -> None:
    greedy, other = await gateway.caller(await gateway.key("greedy")), await gateway.caller(await gateway.key("other"))
    operator = await gateway.caller(await make_key(gateway.runtime, "operator", client="operations"))
    assert [(await caller.send(OTP)).status_code for caller in (greedy, other)] == [200, 200]  # their keys are known
    async with locked(dsn, "suppressions"):
        lists = [asyncio.create_task(greedy.http.get("/v1/suppressions")) for _ in range(30)]
        done, _ = await asyncio.wait(lists, timeout=WITHIN_S, return_when=asyncio.FIRST_COMPLETED)
        assert {task.result().status_code for task in done} == {429}
        assert (await other.send(OTP)).status_code == 200
        assert (await other.http.get("/v1/messages")).status_code == 200
        assert (await operator.http.get("/v1/admin/keys")).status_code == 200
        assert (await operator.http.get("/readyz")).status_code == 200
    await asyncio.gather(*lists)


async def test_however_many_ask_whether_it_is_ready_the_database_is_asked_once(gateway: Gateway, dsn: str) -> None:
    watcher = await asyncpg.connect(dsn)
    others = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    try:
        async with locked(dsn, "alembic_version"), httpx.AsyncClient(base_url=gateway.url) as http:
            asked = [asyncio.create_task(http.get("/readyz")) for _ in range(20)]

            async def waits() -> bool:
                return bool(await watcher.fetchval(others))

            await eventually(waits)
            assert await watcher.fetchval(others) <= 1
            assert {problem(answer, 503).code for answer in await asyncio.gather(*asked)} == {"database_unavailable"}
        async with httpx.AsyncClient(base_url=gateway.url) as http:
            assert (await http.get("/readyz")).status_code == 200
    finally:
        await watcher.close()


async def test_reads_have_connections_of_their_own(gateway: Gateway) -> None:
    environment = gateway.runtime.settings.environment
    caller = await gateway.caller(await gateway.key("reader"))
    assert (await caller.http.get("/v1/messages")).status_code == 200  # its key is known from now on
    async with AsyncExitStack() as stack:
        for _ in range(environment.connections - environment.connections_for_reads - ACCEPTS_AT_ONCE):
            await stack.enter_async_context(gateway.runtime.database.writing())
        assert (await caller.http.get("/v1/messages")).status_code == 200
        assert (await caller.send(OTP)).status_code == 200


async def test_a_list_whose_caller_hangs_up_ends_in_the_database_too(gateway: Gateway, dsn: str) -> None:
    key = await gateway.key("greedy")
    watcher = await asyncpg.connect(dsn)

    async def listing() -> bool:
        waits = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        return bool(await watcher.fetchval(waits))

    async def ended() -> bool:
        return not await listing()

    async def counted() -> bool:
        return gateway.counted("GET", "/v1/suppressions", 499) == 1

    try:
        async with locked(dsn, "suppressions"):
            caller = await gateway.caller(key)
            hanging = asyncio.create_task(caller.http.get("/v1/suppressions"))
            await eventually(listing)
            hanging.cancel()
            await asyncio.wait([hanging])
            await eventually(ended)
            await eventually(counted)
    finally:
        await watcher.close()
    again = await gateway.caller(key)
    assert (await again.http.get("/v1/suppressions")).status_code == 200


async def test_a_test_event_whose_caller_hangs_up_gives_its_place_back(gateway: Gateway) -> None:
    async with Listener() as receiver:
        receiver.delay = 10 * WITHIN_S
        caller = await gateway.caller(await gateway.key("greedy"))
        made = await caller.http.post("/v1/webhooks", json={"url": receiver.url})
        path = f"/v1/webhooks/{made.json()['endpoint_id']}/test"
        hanging = asyncio.create_task(caller.http.post(path))
        await receiver.wait_for(1)
        assert problem(await caller.http.post(path), 429).code == "too_many_at_once"
        hanging.cancel()
        await asyncio.wait([hanging])

        async def counted() -> bool:
            return gateway.counted("POST", "/v1/webhooks/{endpoint_id}/test", 499) == 1

        await eventually(counted)
        receiver.delay = 0.0
        assert (await caller.http.post(path)).status_code == 200


async def test_a_send_whose_caller_hangs_up_is_stored_all_the_same(gateway: Gateway, dsn: str) -> None:
    caller = await gateway.caller(await gateway.key("hasty"))
    sent = body(reference="hung-up")
    watcher = await asyncpg.connect(dsn)

    async def stored() -> bool:
        return bool(await watcher.fetchval("SELECT count(*) FROM messages WHERE reference = 'hung-up'"))

    async def answered() -> bool:
        return gateway.counted("POST", "/v1/send", 200) == 1

    async def waits() -> bool:
        lock = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        return bool(await watcher.fetchval(lock))

    try:
        async with locked(dsn, "messages"):
            sending = asyncio.create_task(caller.send(sent, "once"))
            await eventually(waits)
            sending.cancel()
            await asyncio.wait([sending])
        await eventually(stored)
        await eventually(answered)
    finally:
        await watcher.close()
    assert (await caller.send(sent, "once")).headers["idempotency-replayed"] == "true"


def arriving(*parts: tuple[float, bytes]) -> Request:
    """A request whose body comes in parts, each so many seconds after the one before, and never ends."""
    coming = iter(parts)

    async def receive() -> Message:
        part = next(coming, None)
        if part is None:
            await asyncio.Event().wait()
            raise AssertionError
        come = asyncio.Event()
        asyncio.get_running_loop().call_later(part[0], come.set)
        await come.wait()
        return {"type": "http.request", "body": part[1], "more_body": True}

    return Request({"type": "http", "headers": []}, receive)


@pytest.mark.parametrize(
    "parts", [[], [(0.0, b"{")], [(0.0, b"{"), (0.001, b'"')]], ids=["nothing", "one byte", "dribbled"]
)
async def test_a_body_that_stops_halfway_gives_its_place_back(parts: list[tuple[float, bytes]]) -> None:
    places = Places(2)
    with pytest.raises(Problem) as refused:
        await read_body(arriving(*parts), 1000, places.of("shop"), within_s=0.01)
    assert (refused.value.status, refused.value.code) == (400, "incomplete_body")
    places.take("shop")


async def test_a_large_body_has_time_for_what_came_of_it() -> None:
    """The second part comes after the time that a small body has; the limit is what ends it."""
    request = arriving((0.0, b"x" * 2_000_000), (0.05, b"x" * 2_000_000))
    with pytest.raises(Problem) as refused:
        await read_body(request, 3_000_000, within_s=0.01)
    assert refused.value.status == 413


async def test_a_body_that_is_there_already_takes_no_place() -> None:
    places = Places(2)
    places.take("shop")

    async def whole() -> Message:
        return {"type": "http.request", "body": b"{}", "more_body": False}

    assert await read_body(Request({"type": "http", "headers": []}, whole), 1000, places.of("shop")) == b"{}"
    with pytest.raises(Problem) as refused:
        await read_body(arriving(), 1000, places.of("shop"))
    assert refused.value.code == "too_many_at_once"
