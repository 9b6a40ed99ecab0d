from __future__ import annotations

import logging
import re
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.cli.running import Running, free_ports, running
from tests.postgres import create_database, drop_database


@dataclass(frozen=True)
class Trial:
    """A gateway that `dev` started, and what it printed."""

    command: Running
    folder: Path
    port: int
    printed: str

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def primary_control(self) -> str:
        return f"http://127.0.0.1:{self.port + 11}"

    @property
    def fallback_control(self) -> str:
        return f"http://127.0.0.1:{self.port + 12}"

    @property
    def api_key(self) -> str:
        return self.shown("API key")

    @property
    def settings(self) -> dict[str, str]:
        """How the commands that call a gateway find this one."""
        return {"SMS_URL": self.url, "SMS_API_KEY": self.api_key}

    def shown(self, what: str) -> str:
        found = re.search(rf"^  {what} +(\S+)$", self.printed, re.MULTILINE)
        assert found, self.printed
        return found[1]

    def pasted(self, containing: str) -> str:
        """The printed command line with this in it."""
        lines = self.printed.replace("\\\n", " ").splitlines()
        return next(line.strip() for line in lines if containing in line and line.strip().startswith("curl"))


@pytest.fixture
async def database(postgres: str) -> AsyncIterator[str]:
    """The DSN of a database without a schema."""
    dsn = await create_database(postgres)
    yield dsn
    await drop_database(postgres, dsn)


@pytest.fixture(scope="package")
def trial(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trial]:
    folder = tmp_path_factory.mktemp("trial")
    port = free_ports()
    with running("dev", folder=folder, SMS_GATEWAY_PORT=port) as command:
        yield Trial(command, folder, port, command.printed_until("Ctrl-C"))


@pytest.fixture(autouse=True)
def logging_as_it_was() -> Iterator[None]:
    """A command that is run within the tests may set up logging to a stream that is closed soon after."""
    handlers, level = logging.root.handlers[:], logging.root.level
    yield
    logging.root.handlers[:], logging.root.level = handlers, level
