"""A connection that its server has closed while our event loop was held up, and had not read of it yet."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from service.http import Transport
from service.targets import TargetPolicy
from tests.http.raw_server import OK, SelfSigned, post


class Leaving:
    """A server in a thread of its own: it answers one request of each connection, and goes on as it is told."""

    def __init__(self, tls: ssl.SSLContext | None) -> None:
        self._tls = tls
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.leave, self.left = threading.Event(), threading.Event()
        self.says = b""
        self.connections = 0

    def run(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:  # closed
                return
            self.connections += 1
            if self._tls is not None:
                connection = self._tls.wrap_socket(connection, server_side=True)
            with connection:
                connection.settimeout(20)
                while b"\r\n\r\n{}" not in connection.recv(65_536):
                    pass
                connection.sendall(OK)
                self.leave.wait(20)
                connection.sendall(self.says)
            self.left.set()

    @contextmanager
    def up(self) -> Iterator[None]:
        thread = threading.Thread(target=self.run)
        thread.start()
        try:
            yield
        finally:
            self.leave.set()
            self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()
            thread.join()


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "TLS"])
@pytest.mark.parametrize("says", [b"", b"HTTP/1.1 408 Request Timeout\r\n\r\n"], ids=["nothing", "408"])
async def test_a_connection_that_was_closed_while_the_loop_was_held_up_is_not_used_again(
    says: bytes, *, tls: bool, self_signed: SelfSigned
) -> None:
    """Else what is sent would be lost with an unknown outcome, though nothing of it was ever read."""
    server = Leaving(self_signed.context if tls else None)
    server.says = says
    transport = Transport(TargetPolicy.trusting(), ca_file=self_signed.ca_file)
    url = f"{'https' if tls else 'http'}://127.0.0.1:{server.port}"
    with server.up():
        try:
            assert (await transport.send(post(url), timeout_s=10)).content == b"ok"
            server.leave.set()
            assert server.left.wait(20), "which holds up the loop"
            assert (await transport.send(post(url), timeout_s=10)).content == b"ok"
            assert server.connections == 2
        finally:
            await transport.aclose()


@pytest.fixture(scope="module")
def self_signed(tmp_path_factory: pytest.TempPathFactory) -> SelfSigned:
    folder: Path = tmp_path_factory.mktemp("tls")
    return SelfSigned.made(folder)
