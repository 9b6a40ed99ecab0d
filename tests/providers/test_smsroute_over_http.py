"""The smsroute adapter against the simulator, over real HTTP."""

from __future__ import annotations

import base64
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace

import httpx
import pytest

from service.domain.outcome import About, Accepted, Outcome, Refused, Rejected, Throttled, Unknown
from service.domain.receipt import ReceiptStatus
from service.errors import ForgedReceipt
from service.providers.adapter import Account, Callback, Submission
from service.providers.smsroute import SmsRoute
from service.simulator.server import Simulator
from service.simulator.settings import SimulatorSettings
from tests.listener import Listener
from tests.providers.contract import SUBMISSION

SECRET = "whsec_" + base64.b64encode(b"a signing key of 24 bytes").decode()
SEND = replace(SUBMISSION, to="+447700900123", callback_url=None)


class Client:
    """An adapter and the connection that it is given here."""

    def __init__(self, simulator: Simulator, http: httpx.AsyncClient) -> None:
        self.account = Account("primary", simulator.base_url, "sk_test_1", SECRET)
        self.adapter = SmsRoute(self.account)
        self.http = http
        self.control_url = simulator.control_url

    async def send(self, submission: Submission) -> Outcome:
        return self.adapter.send_outcome(await self.http.send(self.adapter.send_request(submission)))

    async def bulk(self, *numbers: str, key: str) -> Sequence[Outcome]:
        submissions = [replace(SEND, to=number) for number in numbers]
        response = await self.http.send(self.adapter.bulk_request(submissions, key))
        return self.adapter.bulk_outcomes(submissions, response)

    async def fault(self, name: str) -> None:
        (await self.http.put(f"{self.control_url}/faults", json={"fault": name})).raise_for_status()

    async def ledger(self, to: str) -> list[dict[str, str]]:
        sends: list[dict[str, str]] = (await self.http.get(f"{self.control_url}/ledger", params={"to": to})).json()[
            "sends"
        ]
        return sends


@pytest.fixture
async def client(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Client]:
    settings = SimulatorSettings(
        name="primary",
        host="127.0.0.1",
        port=0,
        api_key="sk_test_1",
        webhook_secret=SECRET,
        data_dir=tmp_path_factory.mktemp("simulator"),
        receipt_delay_s=0,
    )
    async with Simulator(settings) as simulator, httpx.AsyncClient(trust_env=False) as http:
        yield Client(simulator, http)


async def test_a_repeat_under_the_same_key_gets_the_same_id_and_is_sent_once(client: Client) -> None:
    first, second = await client.send(SEND), await client.send(SEND)
    assert isinstance(first, Accepted)
    assert second == first
    ledger = await client.ledger(SEND.to)
    assert [(send["message_id"], send["from"], send["idempotency_key"]) for send in ledger] == [
        (first.provider_message_id, SEND.sender, SEND.idempotency_key)
    ]


async def test_a_key_used_for_another_body_is_unknown(client: Client) -> None:
    await client.send(SEND)
    assert await client.send(replace(SEND, text="Another text")) == Unknown("idempotency_key_reused")


@pytest.mark.parametrize(
    ("submission", "expected"),
    [
        (replace(SEND, to="+447700900250"), Rejected("invalid_number", "invalid_number", about=About.RECIPIENT)),
        (replace(SEND, to="+447700900300"), Rejected("opted_out", "recipient_opted_out", about=About.RECIPIENT)),
        (replace(SEND, to="447700900123"), Rejected("invalid_number", "number_missing_plus", about=About.RECIPIENT)),
        (replace(SEND, sender="NotListed"), Refused("sender_not_registered", "sender_not_registered", About.SENDER)),
        (replace(SEND, sender="NoFunds"), Refused("funds", "insufficient_funds", about=About.ACCOUNT)),
    ],
    ids=["invalid", "opted out", "no plus", "sender", "funds"],
)
async def test_a_refusal_has_its_outcome(client: Client, submission: Submission, expected: Outcome) -> None:
    assert await client.send(submission) == expected
    assert await client.ledger(submission.to) == []


async def test_a_wrong_key_is_refused_as_credentials(client: Client) -> None:
    client.adapter = SmsRoute(replace(client.account, api_key="sk_wrong"))
    assert await client.send(SEND) == Refused("credentials", "unauthorized", about=About.ACCOUNT)


@pytest.mark.parametrize(
    ("fault", "expected", "accepted"),
    [
        ("throttle", Throttled(1.0), 0),
        ("error", Unknown("http_500"), 0),
        ("garbage", Unknown("unreadable_reply"), 1),
    ],
)
async def test_a_fault_has_its_outcome(client: Client, fault: str, expected: Outcome, accepted: int) -> None:
    await client.fault(fault)
    assert await client.send(SEND) == expected
    assert len(await client.ledger(SEND.to)) == accepted


async def test_a_bulk_gives_each_recipient_its_outcome(client: Client) -> None:
    good, bad, opted_out, last = await client.bulk(
        "+447700900100", "+447700900250", "+447700900300", "+447700900101", key="bulk-1"
    )
    assert isinstance(good, Accepted)
    assert bad == Rejected("invalid_number", "invalid_number", about=About.RECIPIENT)
    assert opted_out == Rejected("opted_out", "recipient_opted_out", about=About.RECIPIENT)
    assert isinstance(last, Accepted)
    assert [send["message_id"] for send in await client.ledger("+447700900101")] == [last.provider_message_id]


async def test_a_bulk_of_which_nothing_is_good_ends_every_message_for_its_own_reason(client: Client) -> None:
    assert await client.bulk("+447700900300", "+447700900250", key="bulk-1") == [
        Rejected("opted_out", "recipient_opted_out", about=About.RECIPIENT),
        Rejected("invalid_number", "invalid_number", about=About.RECIPIENT),
    ]


@pytest.mark.parametrize(
    ("to", "status", "error_code", "provider_code"),
    [
        ("+447700900123", ReceiptStatus.DELIVERED, 0, None),
        ("+447700900200", ReceiptStatus.UNDELIVERED, 27, "absent_subscriber"),
        ("+447700900240", ReceiptStatus.FAILED, None, "provider_failed"),
    ],
)
async def test_the_receipt_is_verified_and_names_the_send(
    client: Client, to: str, status: ReceiptStatus, error_code: int | None, provider_code: str | None
) -> None:
    async with Listener() as listener:
        outcome = await client.send(replace(SEND, to=to, callback_url=f"{listener.url}/v1/receipts/primary/token"))
        (received,) = await listener.wait_for(1)
    callback = Callback(received.body, received.headers, {}, listener.url + received.path)
    (receipt,) = client.adapter.receipts(callback, time.time())
    assert Accepted(receipt.provider_message_id) == outcome
    assert (receipt.status, receipt.error_code, receipt.provider_code) == (status, error_code, provider_code)
    assert (receipt.occurred_at is not None) == (status is ReceiptStatus.DELIVERED)
    with pytest.raises(ForgedReceipt):
        client.adapter.receipts(callback, time.time() + 302)
