"""What operators do in the day of trouble of test_leaks.py: keys over the API, bad files, an issuer that is away."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import jwt
import orjson

from tests.cli.running import Running, eventually
from tests.security.leaks import Scene, secret

AUTH: Final = """\
auth:
  issuers:
    - issuer: "http://127.0.0.1:9/{path}"
      audience: sms-gateway
      token_file: {token_file}
      subjects: {{"{subject}": {{client: shop, scopes: [send]}}}}
"""
"""An issuer of tokens that does not answer, asked with a token of our own."""
REFUSED_FILES: Final = (
    "providers: {{one: {{adapter: smsroute, api_key: {secret}",
    "providers: {{one: {{adapter: smsroute, base_url: 'ftp://me:{secret}@example.com', api_key: {secret}}}}}",
    "providers: {{one: {{adapter: smsroute, base_url: 'https://example.com', api_key: [{secret}], apikey: {secret}}}}}",
    "api_key: {secret}",
    "{secret}",
    "senders: {{MyApp: {{traffic: {secret}}}}}\nroutes: [{{providers: [{secret}]}}]",
)
"""No YAML, a bad URL, bad types, an unknown setting, no mapping, bad values: a secret is in what is complained of.

The names of settings are told, also those that are none.
"""


def with_an_issuer(scene: Scene) -> str:
    """A token of an issuer that is away; the gateways that start after this know it."""
    file, path, own = scene.folder / "issuer-token", secret("tenant-"), secret("own-")
    file.write_text(own)
    subject = f"system:serviceaccount:{secret('ns-')}:shop"
    config = scene.folder / "gateway.yaml"
    config.write_text(config.read_text() + AUTH.format(path=path, token_file=file, subject=subject))
    claims = {"iss": f"http://127.0.0.1:9/{path}", "aud": "sms-gateway", "sub": subject, "exp": time.time() + 3600}
    token = jwt.encode(claims, secret() * 2, algorithm="HS256", headers={"kid": secret("kid-")})
    scene.spoken.forbid("token", own, *token.split("."))
    return token


async def calls_with_a_token(scene: Scene, token: str) -> None:
    """Nobody can verify it: 503. One that names no issuer of ours: 401."""
    elsewhere = jwt.encode({"iss": secret("https://"), "sub": "x"}, secret() * 2, algorithm="HS256")
    scene.spoken.forbid("token", *elsewhere.split(".")[1:])
    for sent, status in ((token, 503), (elsewhere, 401), (f"{token[:-3]}", 503)):
        answer = await scene.http.get("/v1/messages", headers={"Authorization": f"Bearer {sent}"})
        assert answer.status_code == status, answer.text


async def makes_clients_and_keys(scene: Scene) -> None:
    """Over the API: what it shows once is shown nowhere else, and stands in no list, refusal or audit log."""
    made = orjson.loads(scene.cli("keys", "create", "--client", "operations", "--scopes", "operator", "--json"))
    headers = {"Authorization": f"Bearer {made['key']}"}

    async def act(method: str, path: str, **json: Any) -> dict[str, Any]:
        answer = await scene.http.request(method, f"/v1/admin/{path}", json=json, headers=headers)
        return dict(answer.json()) if answer.content else {}

    client = await act("POST", "clients", name="made-by-an-operator")
    key = await act("POST", "keys", client="made-by-an-operator", scopes=["send"])
    successor = await act("POST", f"keys/{key['key_id']}/rotate", overlap_s=60)
    scene.spoken.forbid("key", made["key"], key["key"], successor["key"])
    scene.spoken.forbid("secret", made["webhook_secret"], client["webhook_secret"])
    await act("POST", "clients", name="made-by-an-operator")  # there is one already
    await act("POST", "keys", client=key["key"], scopes=["send"])  # a key where a name belongs
    await act("POST", f"keys/{key['key']}/rotate")
    await act("DELETE", f"keys/{successor['key_id']}")
    for what in ("clients", "keys", "audit"):
        scene.spoken.outputs[f"list of {what}"] = str(await act("GET", what))
    for command in (("keys", "list"), ("clients", "list"), ("audit", "list")):
        scene.spoken.outputs[" ".join(command)] = scene.cli(*command)


async def reloads_bad_files(scene: Scene, processes: Sequence[Running]) -> None:
    """Each is refused by every process, which says why."""
    config = scene.folder / "gateway.yaml"
    good = config.read_text()
    for number, text in enumerate(REFUSED_FILES, start=1):
        await asyncio.to_thread(_refused, scene, config, text, number, processes)
    config.write_text(good)


def _refused(scene: Scene, config: Path, text: str, number: int, processes: Sequence[Running]) -> None:
    one = secret("pk-")
    scene.spoken.forbid("secret", one)
    config.write_text(text.format(secret=one))
    for process in processes:
        process.process.send_signal(signal.SIGHUP)
        eventually(process.log, lambda log: log.count("not reloaded") == number)
