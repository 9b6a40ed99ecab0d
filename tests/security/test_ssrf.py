"""A client who gives the gateway URLs that only the gateway could call. The transport alone: tests/http."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import httpx
import pytest

from service.errors import NotSent, TargetRefused
from service.http import Transport
from service.targets import TargetPolicy
from tests.api.client import body, problem
from tests.listener import Listener

INSIDE = [
    "127.0.0.1", "127.0.0.1.", "127.1", "127.255.255.254", "0", "2130706433", "0x7f000001", "0x7f.1", "017700000001",
    "0.0.0.0",  # noqa: S104 - nobody binds to it
    "0177.0.0.1", "127.0.0.1%2f", "localhost", "localhost.", "LOCALHOST", "a.localhost", "localhost%00.example.com",
    "169.254.169.254", "2852039166", "0xa9fea9fe", "169.254.43518", "100.100.100.200",
    "[::1]", "[::]", "[0:0:0:0:0:0:0:1]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[::ffff:a9fe:a9fe]",
    "[::127.0.0.1]", "[64:ff9b::7f00:1]", "[64:ff9b::a9fe:a9fe]", "[64:ff9b:1::7f00:1]", "[2002:7f00:1::]",
    "[2002:a9fe:a9fe::]", "[::ffff:0:127.0.0.1]", "[fe80::1]", "[fe80::1%25lo]", "[::1%25lo]",
    "[::ffff:127.0.0.1%25lo]",
    "[fd00:ec2::254]", "[ff02::1]", "①②⑦.0.0.1", "127。0。0。1",
]  # fmt: skip
"""Hosts that lead to this machine, to the metadata service of a cloud, or to no single machine."""

ODD = [
    "http://user:password@example.com/", "http://example.com@127.0.0.1/", "http://127.0.0.1#@example.com/",
    "http://127.0.0.1\\@example.com/", "http://example.com\\@127.0.0.1/", "http://[::1]@example.com/",
    "http://example.com:0/", "http://example.com:65536/", "http://example.com:-1/", "http://example.com:80:80/",
    "gopher://example.com/", "file:///etc/passwd", "ftp://example.com/", "dict://example.com:11211/", "//example.com/",
    "http:example.com", "http:///etc/passwd", "javascript:alert(1)", "http://exa mple.com/", "http://ex\r\nample.com/",
    "http://example.com/\r\nX-Injected: 1", "http://", "http://%31%32%37.0.0.1/",
]  # fmt: skip

URLS = [f"http://{host}/" for host in INSIDE] + [f"https://{host}:8443/x?y=z" for host in INSIDE] + ODD


@pytest.mark.parametrize("url", URLS)
async def test_no_door_of_the_api_takes_a_url_that_leads_inside(owner: httpx.AsyncClient, url: str) -> None:
    send = await owner.post("/v1/send", json=body(callback_url=url))
    endpoint = await owner.post("/v1/webhooks", json={"url": url})
    for refused in (send, endpoint):
        assert problem(refused, 422).errors != []
        assert "127.0.0.1" not in refused.text


@pytest.mark.parametrize(
    "url", ["https://example.com:8443/", "http://[2606:2800:220:1::1]:80/", "http://a_b.internal./x"]
)
async def test_what_leads_outside_is_taken(owner: httpx.AsyncClient, url: str) -> None:
    assert (await owner.post("/v1/send", json=body(callback_url=url))).status_code == 200


async def test_an_endpoint_cannot_be_moved_inside_later(owner: httpx.AsyncClient) -> None:
    made = (await owner.post("/v1/webhooks", json={"url": "https://owner.example/"})).json()
    path = f"/v1/webhooks/{made['endpoint_id']}"
    assert problem(await owner.patch(path, json={"url": "http://[::ffff:169.254.169.254]/"}), 422).code == "url_refused"
    assert (await owner.get(path)).json()["url"] == "https://owner.example/"


class Rebinding:
    """A DNS server of the attacker: each question gets the next answer, the last one for ever."""

    def __init__(self, *answers: list[str]) -> None:
        self._answers = list(answers)
        self.asked = 0

    async def __call__(self, _: str) -> list[str]:
        self.asked += 1
        return self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]


@pytest.fixture
async def inside() -> AsyncIterator[Listener]:
    """What an attacker would like to reach: a server on loopback."""
    async with Listener() as listener:
        yield listener


@pytest.mark.parametrize(
    "answers",
    [
        [["127.0.0.1"]],
        [["::1"]],
        [["::ffff:127.0.0.1"]],
        [["64:ff9b::7f00:1"]],
        [["127.0.0.1", "::1", "169.254.169.254"]],
        [["192.0.2.1"], ["127.0.0.1"]],
    ],
)
async def test_a_name_that_leads_inside_at_any_time_is_not_dialled(inside: Listener, answers: list[list[str]]) -> None:
    """192.0.2.1 is for documentation (RFC 5737): nothing answers there, so the first try ends by its time."""
    port = httpx.URL(inside.url).port
    transport = Transport(TargetPolicy(), resolve=Rebinding(*answers))
    try:
        for _ in range(len(answers)):
            request = httpx.Request("POST", f"http://rebinding.example:{port}/")
            with pytest.raises((TargetRefused, NotSent)):
                await transport.send(request, timeout_s=5, connect_timeout_s=0.2)
    finally:
        await transport.aclose()
    assert inside.received == []


async def test_the_address_that_was_checked_is_the_one_that_is_dialled(inside: Listener) -> None:
    """One question a connection: there is no second answer that could differ from the one that was judged."""
    names = Rebinding(["127.0.0.1"], ["169.254.169.254"])
    transport = Transport(TargetPolicy(allow_loopback=True), resolve=names)
    try:
        for _ in range(3):
            request = httpx.Request("POST", f"http://hook.example:{httpx.URL(inside.url).port}/")
            assert (await transport.send(request, timeout_s=10)).status_code == 204
    finally:
        await transport.aclose()
    assert (names.asked, len(inside.received)) == (1, 3)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_inside_is_not_followed(inside: Listener, status: int) -> None:
    inside.reply_status, inside.reply_headers = status, {"Location": f"{inside.url}/inside"}
    transport = Transport(TargetPolicy(allow_loopback=True))
    try:
        answer = await transport.send(httpx.Request("POST", f"{inside.url}/outside"), timeout_s=10)
    finally:
        await transport.aclose()
    assert answer.status_code == status
    assert [one.path for one in inside.received] == ["/outside"]


async def test_the_answer_of_a_target_is_shown_to_nobody(owner: httpx.AsyncClient) -> None:
    """A private address may be called, so nobody may read by it what stands there: only a status comes back."""
    made = (await owner.post("/v1/webhooks", json={"url": "http://10.255.255.1:9/"})).json()
    trial = owner.post(f"/v1/webhooks/{made['endpoint_id']}/test")
    async with asyncio.timeout(60):
        shown = (await trial).json()
    assert set(shown) == {"webhook_id", "delivered", "http_status", "error"}
    assert shown["delivered"] is False
