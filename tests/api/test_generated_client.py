"""A client generated from `openapi/openapi.json` type-checks and works."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import openapi_python_client
import pytest
from openapi_python_client.config import Config, ConfigFile, MetaType

from service.runtime import Runtime
from tests.gateway import make_key

_DOCUMENT = Path(__file__).parents[2] / "openapi" / "openapi.json"
_CALLER = """
import sys

from sms_client import AuthenticatedClient
from sms_client.api.messages import get_message, send
from sms_client.models import MessageReply, ProblemReply, SendReply, SendRequest

client = AuthenticatedClient(base_url=sys.argv[1], token=sys.argv[2])
sent = send.sync(
    client=client, body=SendRequest(to="+15555550100", from_="MyApp", message="Hello"), idempotency_key="order-4711"
)
assert isinstance(sent, SendReply), sent
message = get_message.sync(sent.message_id, client=client)
assert isinstance(message, MessageReply), message
assert (message.to, message.from_, message.segments) == ("+15555550100", "MyApp", 1), message
assert message.created_at == sent.created_at
refused = send.sync(client=client, body=SendRequest(to="555-555-0100", from_="MyApp", message="Hello"))
assert isinstance(refused, ProblemReply), refused
print(message.message_id, refused.code)
"""


@pytest.fixture(scope="module")
def generated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the generated package and of a program that uses it."""
    folder = tmp_path_factory.mktemp("generated")
    # The tool knows no CSV: to it the file is bytes.
    settings = ConfigFile(post_hooks=[], content_type_overrides={"text/csv": "application/octet-stream"})
    target = Config.from_sources(settings, MetaType.NONE, _DOCUMENT, "utf-8", False, folder / "sms_client")
    assert openapi_python_client.generate(config=target) == []
    (folder / "caller.py").write_text(_CALLER, encoding="utf-8")
    return folder


async def _run(folder: Path, *arguments: str) -> str:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *arguments,
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(folder)},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output = (await process.communicate())[0].decode()
    assert process.returncode == 0, output
    return output


async def test_a_generated_client_passes_strict_type_checks(generated: Path) -> None:
    await _run(generated, "-m", "mypy", "--strict", "--config-file=", "sms_client", "caller.py")


async def test_a_generated_client_sends_and_reads_back(generated: Path, runtime: Runtime, base_url: str) -> None:
    key = await make_key(runtime, "send", "read")
    printed = (await _run(generated, "caller.py", base_url, key)).split()
    assert printed[0].startswith("msg_")
    assert printed[1] == "number_missing_plus"
