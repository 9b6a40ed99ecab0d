"""What becomes of every adapter's request on a real connection, good or bad. The engine tells the outcomes apart."""

from __future__ import annotations

import logging
import socket
from collections.abc import AsyncIterator
from dataclasses import replace

import httpx
import pytest

from service.domain.outcome import Unknown
from service.errors import MaybeSent, NotSent
from service.http import Transport
from service.providers import build
from service.providers.adapter import Adapter
from service.targets import TargetPolicy
from tests.providers.contract import CASES, SUBMISSION, each_case
from tests.providers.recorder import Recorder


@pytest.fixture
async def transport() -> AsyncIterator[Transport]:
    made = Transport(TargetPolicy.trusting())
    yield made
    await made.aclose()


@pytest.fixture
async def provider() -> AsyncIterator[Recorder]:
    async with Recorder() as recorder:
        yield recorder


def adapter_at(name: str, url: str) -> Adapter:
    return build(name, replace(CASES[name].account, base_url=url))


@each_case
async def test_each_request_arrives_as_the_adapter_made_it(name: str, transport: Transport, provider: Recorder) -> None:
    adapter = adapter_at(name, provider.url)
    requests = [
        adapter.send_request(replace(SUBMISSION, sender="Café", text="Привет 👩‍👩‍👧\r\n")),
        adapter.credentials_request(),
    ]
    provider.status = 418
    for request in requests:
        await transport.send(request, timeout_s=5)
    for request, arrived in zip(requests, provider.requests, strict=True):
        assert (arrived.method, arrived.path) == (request.method, request.url.raw_path.decode())
        assert arrived.body == request.content
        sent = {name: value for name, value in request.headers.items() if name != "host"}
        assert {name: arrived.headers.get(name) for name in sent} == sent


@each_case
async def test_a_refused_connection_is_surely_not_sent(name: str, transport: Transport) -> None:
    with socket.socket() as taken:  # bound and not listening: it refuses
        taken.bind(("127.0.0.1", 0))
        request = adapter_at(name, f"http://127.0.0.1:{taken.getsockname()[1]}").send_request(SUBMISSION)
        with pytest.raises(NotSent):
            await transport.send(request, timeout_s=5)


@each_case
@pytest.mark.parametrize("fault", ["silent", "breaks"])
async def test_no_reply_or_half_of_one_may_have_been_sent_and_is_not_repeated(
    name: str, fault: str, transport: Transport, provider: Recorder
) -> None:
    setattr(provider, fault, True)
    with pytest.raises(MaybeSent):
        await transport.send(adapter_at(name, provider.url).send_request(SUBMISSION), timeout_s=0.5)
    assert len(provider.requests) == 1


@each_case
async def test_a_2xx_of_garbage_is_unknown(name: str, transport: Transport, provider: Recorder) -> None:
    adapter = adapter_at(name, provider.url)
    provider.json = ["?"]
    response = await transport.send(adapter.send_request(SUBMISSION), timeout_s=5)
    assert adapter.send_outcome(response) == Unknown("unreadable_reply")


@each_case
async def test_no_secret_shows_in_a_log_or_an_error(
    name: str, transport: Transport, provider: Recorder, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    shown: list[str] = []
    adapter = adapter_at(name, provider.url)
    for fault in ("silent", "breaks"):
        setattr(provider, fault, True)
        with pytest.raises(MaybeSent) as error:
            await transport.send(adapter.send_request(SUBMISSION), timeout_s=0.2)
        shown.append(repr(error.value))
        setattr(provider, fault, False)
    response: httpx.Response = await transport.send(adapter.send_request(SUBMISSION), timeout_s=5)
    shown += [repr(response), repr(adapter.send_outcome(response)), caplog.text]
    assert provider.requests
    assert not [text for text in shown for secret in (*CASES[name].secrets, SUBMISSION.text) if secret in text]
