from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from uuid import UUID

import pytest
from starlette.requests import Request

from service.api import access
from service.api.admission import Admission
from service.api.auth import Directory
from service.domain.ids import new_id
from service.domain.keyring import key_hash
from service.errors import Problem, StoreOverloaded
from service.runtime import Runtime
from service.storage.clients import ClientChange, KeyTerms, Principal
from tests.api.client import BRITISH, NUMBER, GatewayClient, body, bulk_body, problem
from tests.gateway import make_key


@pytest.mark.parametrize("header", ["", "Bearer", "Basic c2s6", "Bearer sk_nobody", "Bearer \xe9\xff", "sk_nobody"])
async def test_without_a_living_key_the_answer_is_401(api: GatewayClient, header: str) -> None:
    headers = {"Authorization": header.encode("latin-1")}
    response = await api.http.post("/v1/send", json=body(), headers=headers)  # type: ignore[arg-type]
    assert problem(response, 401).code == "unauthorized"
    assert response.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize(
    ("scope", "method", "path"),
    [
        ("send", "POST", "/v1/send"),
        ("send", "POST", "/v1/send/bulk"),
        ("read", "GET", "/v1/messages/msg_0"),
        ("read", "GET", "/v1/batches/bat_0"),
        ("hlr", "GET", "/v1/hlr/+15555550100"),
    ],
)
async def test_a_key_needs_the_scope(api: GatewayClient, runtime: Runtime, scope: str, method: str, path: str) -> None:
    other = {"send", "read", "hlr"} - {scope}
    headers = {"Authorization": f"Bearer {await make_key(runtime, *other)}"}
    refused = problem(await api.http.request(method, path, headers=headers), 403)
    assert refused.code == "scope_missing"
    assert scope in refused.detail
    admin = {"Authorization": f"bearer {await make_key(runtime, 'admin')}"}
    assert (await api.http.request(method, path, headers=admin)).status_code != 403


async def test_a_new_key_works_at_once(api: GatewayClient, runtime: Runtime) -> None:
    for _ in range(3):
        headers = {"Authorization": f"Bearer {await make_key(runtime, 'send')}"}
        assert (await api.http.post("/v1/send", json=body(), headers=headers)).status_code == 200


async def test_a_client_can_be_limited_to_senders_and_countries(api: GatewayClient, runtime: Runtime) -> None:
    headers = {"Authorization": f"Bearer {await make_key(runtime, 'send', client='limited')}"}
    await runtime.database.execute("UPDATE clients SET senders = '{MyApp}', countries = '{US}' WHERE name = 'limited'")

    async def send(path: str, fields: Mapping[str, object]) -> tuple[int, str | None]:
        response = await api.http.post(path, json=fields, headers=headers)
        return response.status_code, response.json().get("code")

    assert await send("/v1/send", body()) == (200, None)
    assert await send("/v1/send", body(**{"from": "MyAppOTP"})) == (403, "sender_forbidden")
    assert await send("/v1/send", body(to=BRITISH)) == (403, "country_forbidden")
    assert await send("/v1/send/bulk", bulk_body(NUMBER) | {"from": "MyAppOTP"}) == (403, "sender_forbidden")
    bulk = await api.http.post("/v1/send/bulk", json=bulk_body(NUMBER, BRITISH), headers=headers)
    assert bulk.json()["results"][1]["error"]["code"] == "country_forbidden"


class _Keys:
    """What is known of keys, over a store that can be slow, broken or changed; counts the readings and the look-ups."""

    def __init__(self, *keys: str) -> None:
        self.living = list(keys)
        self.broken = False
        self.may_answer = asyncio.Event()
        self.may_answer.set()
        self.readings = 0
        self.looked_up: list[bytes] = []
        self.expires_at: datetime | None = None
        self.notes: list[list[bytes]] = []
        self.asked = asyncio.Event()
        self._known: dict[bytes, Principal] = {}
        self._client_id: UUID = new_id()

    async def follow(self) -> None:
        self.readings += 1
        self.asked.set()
        found = self._stored()
        await self.may_answer.wait()
        self._known = found

    async def fill(self) -> None:
        await self.follow()

    async def of_key(self, hashed: bytes) -> Principal | None:
        if hashed not in self._known:
            self.looked_up.append(hashed)
            return self._stored().get(hashed)
        return self._known[hashed]

    def _stored(self) -> dict[bytes, Principal]:
        if self.broken:
            raise StoreOverloaded("down")
        return {
            key_hash(key): Principal(
                self._client_id, "shop", frozenset({"send"}), False, None, None, expires_at=self.expires_at
            )
            for key in self.living
        }

    async def client(self, name: str) -> Principal | None:
        raise AssertionError(f"only callers with tokens need {name}")

    async def note_use(self, key_hashes: Sequence[bytes]) -> None:
        if self.broken:
            raise StoreOverloaded("down")
        self.notes.append(list(key_hashes))


class _Clock:
    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


async def test_a_revoked_key_ends_within_two_seconds() -> None:
    keys, clock = _Keys("a", "b"), _Clock()
    directory = Directory(keys, clock=clock)
    await directory.authorize("Bearer a", "send")
    keys.living.remove("a")
    keys.may_answer.clear()
    clock.now_s += 1.9
    await directory.authorize("Bearer a", "send")
    clock.now_s += 0.2
    late = asyncio.create_task(directory.authorize("Bearer a", "send"))
    await asyncio.wait_for(keys.asked.wait(), 10)
    keys.may_answer.set()
    with pytest.raises(Problem, match="401"):
        await late


async def test_changes_are_read_once_a_second_and_nobody_waits_for_them() -> None:
    keys, clock = _Keys("a"), _Clock()
    directory = Directory(keys, clock=clock)
    await directory.authorize("Bearer a", "send")
    clock.now_s += 0.9
    await directory.authorize("Bearer a", "send")
    await asyncio.sleep(0)
    assert keys.readings == 1
    keys.asked.clear()
    keys.may_answer.clear()
    clock.now_s += 0.2
    assert (await directory.authorize("Bearer a", "send")).client == "shop"
    await asyncio.wait_for(keys.asked.wait(), 10)
    assert keys.readings == 2
    keys.may_answer.set()


async def test_requests_at_the_same_time_share_a_reading() -> None:
    keys = _Keys("a")
    directory = Directory(keys, clock=_Clock())
    await asyncio.gather(*(directory.authorize("Bearer a", "send") for _ in range(20)))
    assert keys.readings == 1


async def test_wrong_keys_are_looked_up_and_make_no_reading() -> None:
    keys = _Keys("a")
    directory = Directory(keys, clock=_Clock())
    refused = await asyncio.gather(
        *(directory.authorize(f"Bearer wrong-{number}", "send") for number in range(200)), return_exceptions=True
    )
    assert all(isinstance(error, Problem) and error.status == 401 for error in refused)
    assert (keys.readings, len(keys.looked_up)) == (1, 200)


async def test_a_key_made_after_the_last_reading_is_found() -> None:
    keys = _Keys("a")
    directory = Directory(keys, clock=_Clock())
    await directory.authorize("Bearer a", "send")
    keys.living.append("new")
    assert (await directory.authorize("Bearer new", "send")).client == "shop"
    assert keys.readings == 1


async def test_after_a_reload_the_keys_are_known_as_before_though_the_database_is_down() -> None:
    keys, clock = _Keys("a"), _Clock()
    old, new = Directory(keys, clock=clock), Directory(_Keys(), clock=clock)
    await old.authorize("Bearer a", "send")
    keys.broken = True
    new.take_over(old)
    clock.now_s += 60
    assert (await new.authorize("Bearer a", "send")).client == "shop"


async def test_known_keys_go_on_working_while_the_database_is_down() -> None:
    keys, clock = _Keys("a"), _Clock()
    directory = Directory(keys, clock=clock)
    await directory.authorize("Bearer a", "send")
    keys.broken = True
    clock.now_s += 60
    assert (await directory.authorize("Bearer a", "send")).client == "shop"
    with pytest.raises(StoreOverloaded):
        await directory.authorize("Bearer unknown", "send")


async def test_a_database_that_hangs_holds_known_keys_for_a_second_only() -> None:
    keys, clock = _Keys("a"), _Clock()
    directory = Directory(keys, clock=clock)
    await directory.authorize("Bearer a", "send")
    keys.may_answer.clear()
    clock.now_s += 60
    assert (await directory.authorize("Bearer a", "send")).client == "shop"
    keys.may_answer.set()
    clock.now_s += 60
    assert (await directory.authorize("Bearer a", "send")).client == "shop"


@pytest.mark.parametrize("hangs", [False, True], ids=["fails", "hangs"])
async def test_the_key_check_of_a_request_goes_on_with_known_keys_and_gives_its_place_back(hangs: bool) -> None:
    keys, clock = _Keys("a"), _Clock()
    directory, admission = Directory(keys, clock=clock), Admission()
    api = SimpleNamespace(directory=directory, admission=admission)
    await directory.authorize("Bearer a", "send")
    if hangs:
        keys.may_answer.clear()
    else:
        keys.broken = True
    clock.now_s += 60
    request = Request({"type": "http", "headers": [(b"authorization", b"Bearer a")]})
    assert (await access.authorize(request, api, "send")).client == "shop"  # type: ignore[arg-type]
    assert admission.checks.taken == 0
    keys.may_answer.set()


async def test_without_any_copy_nobody_can_be_told_apart() -> None:
    keys = _Keys("a")
    keys.broken = True
    with pytest.raises(StoreOverloaded):
        await Directory(keys, clock=_Clock()).authorize("Bearer a", "send")


async def test_an_expired_key_ends_even_while_the_database_is_down() -> None:
    keys, clock = _Keys("a"), _Clock()
    keys.expires_at = datetime.now(UTC) + timedelta(hours=1)
    directory = Directory(keys, clock=clock)
    assert (await directory.authorize("Bearer a", "send")).client == "shop"
    keys.expires_at = datetime.now(UTC) - timedelta(seconds=1)
    clock.now_s += 60
    with pytest.raises(Problem, match="401"):
        await directory.authorize("Bearer a", "send")
    keys.broken = True
    clock.now_s += 60
    with pytest.raises(Problem, match="401"):
        await directory.authorize("Bearer a", "send")


async def test_the_use_of_a_key_is_noted_once_a_minute_at_most() -> None:
    keys = _Keys("a", "b")
    directory = Directory(keys, clock=_Clock())
    for _ in range(3):
        await directory.authorize("Bearer a", "send")
    with pytest.raises(Problem, match="403"):
        await directory.authorize("Bearer a", "read")
    for _ in range(5):
        await asyncio.sleep(0)
    await directory.authorize("Bearer b", "send")
    for _ in range(5):
        await asyncio.sleep(0)
    assert keys.notes == [[key_hash("a")]]


async def test_a_use_that_cannot_be_noted_harms_nobody(caplog: pytest.LogCaptureFixture) -> None:
    keys = _Keys("a")
    directory = Directory(keys, clock=_Clock())
    await directory.authorize("Bearer a", "send")
    keys.broken = True
    for _ in range(5):
        await asyncio.sleep(0)
    assert "it was not noted which keys are used" in caplog.text
    assert (await directory.authorize("Bearer a", "send")).client == "shop"


async def test_a_key_may_be_narrower_than_its_client(api: GatewayClient, runtime: Runtime) -> None:
    client_id, _ = await runtime.clients.ensure_client("narrow", b"sealed")
    await runtime.clients.set_client("narrow", ClientChange(senders=["MyApp", "MyAppOTP"], countries=["US", "DE"]))
    terms = KeyTerms(["send"], senders=["MyApp", "MyAppPromo"], countries=["US", "GB"])
    await runtime.clients.add_key(client_id, "sk_narrow", terms)

    async def send(**fields: str) -> str | None:
        headers = {"Authorization": "Bearer sk_narrow"}
        code: str | None = (await api.http.post("/v1/send", json=body(**fields), headers=headers)).json().get("code")
        return code

    assert await send() is None
    assert await send(**{"from": "MyAppOTP"}) == "sender_forbidden"  # not the key's
    assert await send(**{"from": "MyAppPromo"}) == "sender_forbidden"  # not the client's
    assert await send(to="+4915112345678") == "country_forbidden"
    assert await send(to=BRITISH) == "country_forbidden"


SPECIAL = ("+19002345678", "+449012345678", "+448431234567", "+881612345678", "+979123456789")


@pytest.mark.parametrize("number", SPECIAL)
async def test_a_stolen_key_cannot_pump_numbers_that_pay_their_holder(api: GatewayClient, number: str) -> None:
    assert problem(await api.send(body(to=number)), 403).code == "number_type_not_allowed"
    bulk = (await api.bulk(bulk_body(NUMBER, number))).json()
    assert (bulk["accepted"], bulk["results"][1]["error"]["code"]) == (1, "number_type_not_allowed")
    preview = (await api.http.post("/v1/messages/preview", json=body(to=number))).json()
    assert [(error["field"], error["code"]) for error in preview["errors"]] == [("to", "number_type_not_allowed")]


async def test_a_client_can_be_allowed_to_send_to_special_rates(api: GatewayClient, runtime: Runtime) -> None:
    headers = {"Authorization": f"Bearer {await make_key(runtime, 'send', client='hotline')}"}
    assert await runtime.clients.set_client("hotline", ClientChange(special_rates=True))
    bulk = await api.http.post("/v1/send/bulk", json=bulk_body(*SPECIAL), headers=headers)
    assert bulk.json()["rejected"] == 0
