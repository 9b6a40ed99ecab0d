"""What servers do to a connection, and when one is used again. What it means for a message: test_transport.py."""

from __future__ import annotations

import asyncio
import socket

import httpx
import pytest

from service.errors import MaybeSent, NotSent
from tests.http.raw_server import OK, hang, opened, post, serving, writes

LAST = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nlast"


@pytest.mark.parametrize(
    "reply",
    [
        pytest.param(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nok", id="until the end"),
        pytest.param(b"HTTP/1.0 200 OK\r\n\r\nok", id="of HTTP/1.0"),
        pytest.param(b"HTTP/1.1 200 OK\nContent-Length: 2\n\nok", id="lines that end without CR"),
        pytest.param(
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\no\r\n1 \r\nk\r\n0\r\n\r\n", id="in chunks"
        ),
        pytest.param(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Hints\r\nLink: x\r\n\r\n" + OK, id="after others"),
    ],
)
async def test_a_reply_is_read_in_every_form_that_servers_give_it(reply: bytes) -> None:
    for parts in ([reply], [reply[n : n + 1] for n in range(len(reply))]):
        async with serving(*parts[:1], rest=parts[1:]) as server, opened() as transport:
            response = await transport.send(post(server.url), timeout_s=5)
        assert (response.status_code, response.content) == (200, b"ok")


@pytest.mark.parametrize(
    "reply",
    [
        pytest.param(OK.replace(b"OK", b"OK\r\nConnection: close"), id="which says so"),
        pytest.param(b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok", id="HTTP/1.0"),
        pytest.param(OK + OK, id="which gave a reply too many"),
        pytest.param(OK + b"HTTP/1.1 200", id="which began a reply too many"),
        pytest.param(OK + b"noise", id="which said more"),
    ],
)
async def test_a_connection_on_which_anything_is_amiss_is_not_used_again(reply: bytes) -> None:
    """Else what was left on it would be taken for the reply to the next request."""
    async with serving(reply, LAST) as server, opened() as transport:
        assert (await transport.send(post(server.url), timeout_s=5)).content == b"ok"
        server.replies = (LAST,)
        assert (await transport.send(post(server.url), timeout_s=5)).content == b"last"
        assert server.connections == 2


async def test_what_comes_on_an_idle_connection_ends_it() -> None:
    """As of a server that says 408 before it closes: it is no reply to what is sent next."""
    said, over = asyncio.Event(), asyncio.Event()

    async def speaks_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await server.read(reader)
        writer.write(OK)
        await said.wait()
        writer.write(b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\n\r\n")
        await reader.read()
        over.set()

    async with serving(LAST) as server, opened() as transport:
        told, server.answer = server.answer, speaks_up
        assert (await transport.send(post(server.url), timeout_s=5)).content == b"ok"
        server.answer = told
        said.set()
        await asyncio.wait_for(over.wait(), 5)
        assert (await transport.send(post(server.url), timeout_s=5)).content == b"last"


async def test_a_connection_that_idles_is_closed() -> None:
    """Before the server does it, perhaps while a request is on its way."""
    closed = asyncio.Event()

    async def waits(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(OK)
        await reader.read()
        closed.set()

    async with serving(then=waits) as server, opened(keepalive_s=0.05) as transport:
        await transport.send(post(server.url), timeout_s=5)
        await asyncio.wait_for(closed.wait(), 5)
        await transport.send(post(server.url), timeout_s=5)
        assert server.connections == 2


async def test_a_reply_to_half_a_request_is_taken_and_the_connection_is_not_used_again() -> None:
    """The rest of the request would be taken for the next one."""
    seen = asyncio.Event()

    async def too_much(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n")
        await seen.wait()

    async with serving(LAST) as server, opened() as transport:
        told, server.answer = server.answer, too_much
        assert (await transport.send(post(server.url, bytes(50_000_000)), timeout_s=5)).status_code == 413
        seen.set()
        server.answer = told
        assert (await transport.send(post(server.url), timeout_s=5)).content == b"last"


@pytest.mark.parametrize("endless", [b"X: y\r\n" * 10_000, b"y" * 100_000, b"HTTP/1.1 100 Continue\r\n\r\n" * 10_000])
async def test_a_head_without_end_is_not_read_on(endless: bytes) -> None:
    async def pours(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nX: " if not endless.startswith(b"HTTP") else b"")
        while not reader.at_eof():
            writer.write(endless)
            await writer.drain()

    async with serving(then=pours) as server, opened() as transport:
        with pytest.raises(MaybeSent, match="ReplyTooLarge"):
            await transport.send(post(server.url), timeout_s=10)


@pytest.mark.parametrize("value", ["a\r\nX-Injected: 1", "a\nb", "a\rb", "a\0b"])
async def test_a_header_that_would_make_two_of_one_is_not_sent(value: str) -> None:
    async with serving(OK) as server, opened() as transport:
        with pytest.raises(NotSent):
            await transport.send(httpx.Request("POST", server.url, headers={"X-Key": value}), timeout_s=5)
        assert server.connections == 0


async def test_of_addresses_that_do_not_answer_the_next_is_tried() -> None:
    async def both(_: str) -> list[str]:
        return ["::1", "127.0.0.2", "127.0.0.1"]

    async with serving(OK) as server, opened(resolve=both) as transport:
        response = await transport.send(post(f"http://provider.example:{server.port}"), timeout_s=5)
    assert response.content == b"ok"


async def test_a_name_is_asked_of_the_system() -> None:
    async with serving(OK) as server, opened() as transport:
        response = await transport.send(post(f"http://localhost:{server.port}"), timeout_s=5)
    assert response.content == b"ok"


async def test_all_who_wait_for_a_name_wait_for_one_answer_which_is_kept() -> None:
    asked: list[str] = []
    answer = asyncio.Event()

    async def slow(host: str) -> list[str]:
        asked.append(host)
        await answer.wait()
        return ["127.0.0.1"]

    async with serving(OK) as server, opened(resolve=slow) as transport:
        url = f"http://provider.example:{server.port}"
        first = [asyncio.create_task(transport.send(post(url), timeout_s=5)) for _ in range(3)]
        first[0].cancel()
        await asyncio.wait(first[:1])
        answer.set()
        assert [reply.content for reply in await asyncio.gather(*first[1:])] == [b"ok", b"ok"]
        server.replies = (LAST,)
        assert (await transport.send(post(url), timeout_s=5)).content == b"last"
    assert asked == ["provider.example"]


async def test_a_name_whose_address_is_dead_is_asked_for_again() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.3", 0))
        port = taken.getsockname()[1]
        answers = [["127.0.0.3"], ["127.0.0.1"]]

        async def moves(_: str) -> list[str]:
            return answers.pop(0)

        async with opened(resolve=moves) as transport:
            for _ in range(2):
                with pytest.raises(NotSent, match="ConnectionRefused"):
                    await transport.send(post(f"http://provider.example:{port}"), timeout_s=5)
    assert answers == []


@pytest.mark.parametrize("name", ["a name", "an address"])
async def test_what_is_under_way_when_the_transport_is_closed_is_told_as_it_is(name: str) -> None:
    looking = asyncio.Event()

    async def hangs(_: str) -> list[str]:
        looking.set()
        await asyncio.Event().wait()
        raise AssertionError

    async with serving(then=hang) as server, opened(resolve=hangs) as transport:
        url = f"http://provider.example:{server.port}" if name == "a name" else server.url
        under_way = asyncio.create_task(transport.send(post(url), timeout_s=5))
        await asyncio.wait_for((looking if name == "a name" else server.requested).wait(), 5)
        await transport.aclose()
        with pytest.raises(NotSent if name == "a name" else MaybeSent):
            await under_way


async def test_a_place_is_free_again_whatever_became_of_who_had_it() -> None:
    async with serving(OK, then=writes(b"nonsense")) as server, opened(max_connections=1) as transport:
        for _ in range(3):
            await transport.send(post(server.url), timeout_s=5)
            with pytest.raises(MaybeSent):
                await transport.send(post(server.url), timeout_s=5)
            with pytest.raises(NotSent):
                await transport.send(post("http://127.0.0.1:9"), timeout_s=5)


@pytest.mark.parametrize("cancelled", [False, True])
async def test_a_reply_that_comes_too_late_is_not_taken_for_the_next(cancelled: bool) -> None:
    late, over = asyncio.Event(), asyncio.Event()

    async def answers_late(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await server.read(reader)
        await late.wait()
        writer.write(OK)
        await reader.read()
        over.set()

    async with serving(LAST) as server, opened() as transport:
        told, server.answer = server.answer, answers_late
        if cancelled:
            first = asyncio.create_task(transport.send(post(server.url), timeout_s=5))
            await asyncio.wait_for(server.requested.wait(), 5)
            first.cancel()
            await asyncio.wait([first])
        else:
            with pytest.raises(MaybeSent):
                await transport.send(post(server.url), timeout_s=0.1)
        server.answer = told
        late.set()
        assert (await transport.send(post(server.url), timeout_s=5)).content == b"last"
        await asyncio.wait_for(over.wait(), 5)
        assert server.connections == 2


async def test_half_a_reply_is_none_when_the_transport_is_closed() -> None:
    """Its end would be that of the connection, so nobody else could tell."""
    async with serving(then=writes(b'HTTP/1.1 200 OK\r\n\r\n{"half', then=hang)) as server, opened() as transport:
        under_way = asyncio.create_task(transport.send(post(server.url), timeout_s=5))
        await asyncio.wait_for(server.requested.wait(), 5)
        for _ in range(3):
            await asyncio.sleep(0)
        await transport.aclose()
        with pytest.raises(MaybeSent):
            await under_way


async def test_a_handshake_that_does_not_end_is_given_up_and_holds_up_nothing() -> None:
    reached = asyncio.Event()

    async def says_nothing(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        reached.set()
        await reader.read()

    async with serving() as server, opened(max_connections=1) as transport:
        server.answer = says_nothing
        url = f"https://127.0.0.1:{server.port}"
        cancelled = asyncio.create_task(transport.send(post(url), timeout_s=5))
        await asyncio.wait_for(reached.wait(), 5)
        waiting = asyncio.create_task(transport.send(post(url), timeout_s=5))
        cancelled.cancel()
        await asyncio.wait([cancelled])
        waiting.cancel()
        await asyncio.wait([waiting])
        with pytest.raises(NotSent, match="Timeout"):
            await transport.send(post(url), timeout_s=5, connect_timeout_s=0.05)


async def test_connecting_may_end_at_any_time_and_leaves_nothing_behind() -> None:
    """Whatever is left behind, `aclose` would wait for."""
    async with serving(then=hang) as server, opened() as transport:
        for turns in range(40):
            under_way = asyncio.create_task(transport.send(post(server.url), timeout_s=5))
            for _ in range(turns):
                await asyncio.sleep(0)
            under_way.cancel()
            await asyncio.wait([under_way])
        async with asyncio.timeout(0.9):  # it gives up waiting after a second
            await transport.aclose()


async def test_who_waits_for_a_place_when_the_transport_is_closed_sends_nothing() -> None:
    async with serving(then=hang) as server, opened(max_connections=1) as transport:
        first, second = (asyncio.create_task(transport.send(post(server.url), timeout_s=5)) for _ in range(2))
        await asyncio.wait_for(server.requested.wait(), 5)
        await transport.aclose()
        with pytest.raises(MaybeSent):
            await first
        with pytest.raises(NotSent):
            await second
        assert server.connections == 1
