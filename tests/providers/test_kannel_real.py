"""The Kannel adapter with a real Kannel: bearerbox, smsbox, and two kinds of SMSC. Skipped where it is not installed.

The `fake` SMSC tells what would go on the air. The other one here speaks just enough SMPP to refuse a message and to
report an error, which the `fake` one cannot.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import struct
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import parse_qsl, unquote_to_bytes, urlsplit

import pytest

from service.domain.outcome import About, Accepted, Outcome, Refused, Rejected
from service.domain.receipt import Receipt, ReceiptStatus
from service.http import Transport
from service.providers.adapter import Account, Callback, Doubt, Submission
from service.providers.kannel import Kannel
from service.targets import TargetPolicy
from tests.listener import Listener, Received
from tests.providers.contract import SUBMISSION

PATH = os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin"))
BEARERBOX = shutil.which("bearerbox", path=PATH)
SMSBOX = shutil.which("smsbox", path=PATH)

pytestmark = pytest.mark.skipif(not (BEARERBOX and SMSBOX), reason="Kannel is not installed")

CONFIG = """
group = core
admin-port = {admin}
admin-password = unused
admin-interface = 127.0.0.1
smsbox-port = {smsbox}
smsbox-interface = 127.0.0.1
box-allow-ip = 127.0.0.1
dlr-storage = internal

group = smsc
smsc-id = smsc
host = 127.0.0.1
port = {smsc}
{kind}

group = smsbox
bearerbox-host = 127.0.0.1
sendsms-port = {sendsms}
sendsms-interface = 127.0.0.1
white-list-regex = "^\\+44"

group = sendsms-user
username = gateway
password = password
max-messages = 10
concatenation = true

group = sms-service
keyword = default
text = "unused"
"""
FAKE = "smsc = fake\nconnect-allow-ip = 127.0.0.1"
SMPP = (
    'smsc = smpp\nsmsc-username = u\nsmsc-password = p\nsystem-type = ""\ntransceiver-mode = true\nreconnect-delay = 1'
)


def free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports: list[int] = [open_.getsockname()[1] for open_ in sockets]
    for open_ in sockets:
        open_.close()
    return ports


async def until(attempt: Callable[[], Awaitable[bool]], what: str, timeout_s: float = 60) -> None:
    """Programs that are starting tell nobody when they have: ask until they answer."""
    deadline = time.monotonic() + timeout_s
    while not await attempt():
        assert time.monotonic() < deadline, what
        await asyncio.sleep(0.05)


async def listens(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    return True


@dataclass(frozen=True, slots=True)
class Running:
    """A Kannel, and the gateway's side of it."""

    adapter: Kannel
    account: Account
    transport: Transport
    listener: Listener

    async def send(self, submission: Submission) -> Outcome:
        request = self.adapter.send_request(submission)
        return self.adapter.send_outcome(await self.transport.send(request, timeout_s=10))

    def submission(self, text: str) -> Submission:
        return replace(SUBMISSION, text=text, callback_url=f"{self.listener.url}/v1/receipts/kannel/a%20token")

    def receipt(self, received: Received) -> Receipt:
        assert received.path.startswith("/v1/receipts/kannel/a%20token?")
        query = dict(parse_qsl(urlsplit(received.path).query))
        url = self.listener.url + received.path
        (receipt,) = self.adapter.receipts(Callback(received.body, received.headers, query, url), time.time())
        assert receipt.occurred_at is not None
        assert abs(receipt.occurred_at.timestamp() - time.time()) < 60
        return replace(receipt, occurred_at=None)


@asynccontextmanager
async def kannel(folder: Path, kind: str, smsc: int) -> AsyncIterator[Running]:
    admin, smsbox, sendsms = free_ports(3)
    config = folder / "kannel.conf"
    config.write_text(CONFIG.format(admin=admin, smsbox=smsbox, sendsms=sendsms, smsc=smsc, kind=kind))
    async with AsyncExitStack() as stack:
        for program, port in ((BEARERBOX, smsbox), (SMSBOX, sendsms)):
            with (folder / f"{Path(program or '').name}.log").open("wb") as log:
                process = await asyncio.create_subprocess_exec(
                    program or "", config, stdout=log, stderr=log, cwd=folder
                )
            stack.push_async_callback(process.wait)
            stack.callback(process.kill)
            await until(lambda port=port: listens(port), f"{program} did not start")  # type: ignore[misc]
        transport = Transport(TargetPolicy.trusting())
        stack.push_async_callback(transport.aclose)
        listener = await stack.enter_async_context(Listener())
        account = Account("kannel", f"http://127.0.0.1:{sendsms}", "gateway:password")
        yield Running(Kannel(account), account, transport, listener)


@asynccontextmanager
async def fake_smsc(port: int) -> AsyncIterator[asyncio.StreamReader]:
    """The other end of a `fake` SMSC: each line is a message, "sender receiver kind data"."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    yield reader
    writer.close()


async def test_texts_go_on_the_air_and_are_reported_by_get(tmp_path: Path) -> None:
    (port,) = free_ports(1)
    async with kannel(tmp_path, FAKE, port) as running, fake_smsc(port) as air:
        gsm, ucs2 = "{[~\\^|€]} @£$¥ ÄÖ", "Привет 👩‍👩‍👧"
        assert await running.send(running.submission(gsm)) == Accepted(None)
        assert (await air.readline()).decode() == f"MyApp +447700900123 text {gsm}\n"
        assert await running.send(replace(running.submission(ucs2), sender="Café")) == Accepted(None)
        head, _, data = (await air.readline()).strip().rpartition(b" ")
        assert head.decode() == "Café +447700900123 ucs-2"
        assert unquote_to_bytes(data.replace(b"+", b" ")).decode("utf-16-be") == ucs2
        assert await running.send(running.submission("a" * 161)) == Accepted(None)
        assert [(await air.readline()).count(b"a" * 8) > 0 for _ in range(2)] == [True, True]
        receipts = [running.receipt(received) for received in await running.listener.wait_for(6)]
    delivered = [receipt for receipt in receipts if receipt.status is ReceiptStatus.DELIVERED]
    assert len(delivered) == 3
    assert all(receipt.provider_message_id and receipt.provider_code is None for receipt in delivered)
    assert {receipt.status for receipt in receipts} == {ReceiptStatus.SENT, ReceiptStatus.DELIVERED}


async def test_what_kannel_refuses_has_its_outcome(tmp_path: Path) -> None:
    (port,) = free_ports(1)
    async with kannel(tmp_path, FAKE, port) as running:
        stranger = Kannel(replace(running.account, api_key="gateway:wrong"))
        response = await running.transport.send(stranger.send_request(SUBMISSION), timeout_s=10)
        assert stranger.send_outcome(response) == Refused("credentials", about=About.ACCOUNT)
        elsewhere = Kannel(replace(running.account, base_url=f"{running.account.base_url}/elsewhere"))
        response = await running.transport.send(elsewhere.send_request(SUBMISSION), timeout_s=10)
        assert elsewhere.send_outcome(response) == Refused("configuration", about=About.ACCOUNT)
        assert await running.send(replace(SUBMISSION, to="+15555550100")) == Rejected("blocked", about=About.RECIPIENT)
        assert await running.send(replace(SUBMISSION, sender=" ")) == Refused(
            "sender_not_registered", about=About.SENDER
        )
        # No SMSC is there yet: Kannel keeps it.
        assert await running.send(running.submission("later")) == Accepted(None)


async def test_kannel_tells_whether_it_takes_the_credentials_and_puts_nothing_on_the_air(tmp_path: Path) -> None:
    (port,) = free_ports(1)
    async with kannel(tmp_path, FAKE, port) as running, fake_smsc(port) as air:

        async def asked(account: Account) -> Doubt | None:
            adapter = Kannel(account)
            response = await running.transport.send(adapter.credentials_request(), timeout_s=10)
            return adapter.credentials_verdict(response)

        account = running.account
        wrong = Refused("credentials", about=About.ACCOUNT)
        assert await asked(account) is None
        assert await asked(replace(account, api_key="gateway:wrong")) == wrong
        assert await asked(replace(account, api_key="stranger:password")) == wrong
        elsewhere = replace(account, base_url=f"{account.base_url}/elsewhere")
        assert await asked(elsewhere) == Refused("configuration", about=About.ACCOUNT)
        assert await running.send(running.submission("the first")) == Accepted(None)
        assert (await air.readline()).decode().endswith(" text the first\n")


SUBMIT_SM, SUBMIT_SM_RESP, DELIVER_SM, BIND_TRANSCEIVER = 0x4, 0x80000004, 0x5, 0x9
INVALID_DESTINATION = 0x0B


def pdu(command: int, sequence: int, body: bytes = b"", status: int = 0) -> bytes:
    return struct.pack(">IIII", 16 + len(body), command, status, sequence) + body


async def smpp_smsc(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Refuses a message that says "refuse me"; accepts all others and reports that they failed with error 255."""
    while head := await reader.read(16):
        length, command, _, sequence = struct.unpack(">IIII", head)
        body = await reader.readexactly(length - 16)
        if command == BIND_TRANSCEIVER:
            writer.write(pdu(command | 0x80000000, sequence, b"smsc\0"))
        elif command == SUBMIT_SM and b"refuse me" in body:
            writer.write(pdu(SUBMIT_SM_RESP, sequence, b"\0", INVALID_DESTINATION))
        elif command == SUBMIT_SM:
            writer.write(pdu(SUBMIT_SM_RESP, sequence, b"ID1\0"))
            dates = b"submit date:2701150800 done date:2701150801"
            text = b"id:ID1 sub:001 dlvrd:000 " + dates + b" stat:UNDELIV err:255 text:Your code is 481902."
            addresses = b"\0\1\x01447700900123\0\0\0MyApp\0"
            writer.write(pdu(DELIVER_SM, 1, addresses + b"\x04\0\0\0\0\0\0\0\0" + bytes([len(text)]) + text))
    writer.close()


async def test_an_error_of_the_smsc_is_kept_and_the_text_stays_out_of_the_url(tmp_path: Path) -> None:
    server = await asyncio.start_server(smpp_smsc, "127.0.0.1", 0)
    async with server, kannel(tmp_path, SMPP, server.sockets[0].getsockname()[1]) as running:
        assert await running.send(running.submission("Your code is 481902.")) == Accepted(None)
        received = await running.listener.wait_for(2)
        receipts = {running.receipt(one) for one in received}
        assert receipts == {
            Receipt(ReceiptStatus.SENT, "ID1"),
            Receipt(ReceiptStatus.UNDELIVERED, "ID1", provider_code="255"),
        }
        assert not [one for one in received if "481902" in one.path]
        assert await running.send(running.submission("refuse me")) == Accepted(None)
        assert running.receipt((await running.listener.wait_for(3))[2]) == Receipt(ReceiptStatus.FAILED)
