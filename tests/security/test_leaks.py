"""A whole day of trouble, and then a search for every text, number and secret in all that was said meanwhile."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import asyncpg
import orjson

from service.domain.keyring import Keyring
from tests.cli.running import Running, eventually
from tests.security import operators
from tests.security.leaks import TALKATIVE, Scene, Spoken, a_scene, secret
from tests.security.wire import Caller

POISON = "a reference that the database refuses"
TROUBLE = {
    "forged callback", "unreadable callback", "webhook not delivered", "store error in delivery", "the store failed",
    "took over from a dead worker", "HLR look-up failed", "violates check constraint", "not reloaded",
    "the keys of an issuer of tokens could not be fetched",
}  # fmt: skip
"""What shows that it was really there, and was told of."""


SPANS = {
    "POST /v1/send", "POST /v1/send/bulk", "GET /v1/hlr/{number}", "POST /v1/receipts/{account}/{token}", "deliver",
    "lookup", "submit", "receive", "notify",
}  # fmt: skip
"""What was traced meanwhile."""


class Journey:
    """Everything that a client can do, and everything that can go wrong with it."""

    def __init__(self, scene: Scene) -> None:
        self._scene = scene
        self._http = scene.http
        self._numbers = (f"+1555555{number:04}" for number in range(1000, 10_000))
        self._callback_secret = secret("cb-")
        scene.spoken.forbid("callback_url", self._callback_secret)

    def number(self, ending: int | None = None) -> str:
        """One that nobody has used, or with an ending that the simulator knows."""
        found = next(self._numbers) if ending is None else f"+1555556{ending:04}"
        self._scene.spoken.forbid_numbers(found)
        return found

    def text(self) -> str:
        found = secret("Your code is ")
        self._scene.spoken.forbid("text", found, found[-32:])
        return found

    async def send(self, number: str | None = None, **fields: Any) -> str:
        url = f"{self._scene.listener.url}/hook?token={self._callback_secret}"
        body = {"to": number or self.number(), "from": "MyApp", "message": self.text(), "callback_url": url} | fields
        answer = await self._http.post("/v1/send", json=body, headers={"Idempotency-Key": secret()})
        return str(answer.json().get("message_id"))

    async def tried(self, message_id: str) -> None:
        """Wait until something came of it, if only a reason to wait."""
        async with asyncio.timeout(120):
            while True:
                message: dict[str, Any] = (await self._http.get(f"/v1/messages/{message_id}")).json()
                if message["reason"] or any(attempt["outcome"] for attempt in message["attempts"]):
                    return
                await asyncio.sleep(0.05)  # over HTTP there is nothing to wait on

    async def ordinary(self) -> None:
        """Sends, bulks, look-ups and previews that go well."""
        bulk = {"from": "MyApp", "message": self.text(), "recipients": [self.number(), self.number(), "+1555", "x"]}
        await self._http.post("/v1/send/bulk", json=bulk, headers={"Idempotency-Key": secret()})
        for path in ("/v1/hlr/%2B", "/v1/messages?to=%2B"):
            await self._http.get(path + self.number()[1:])
        await self._http.post(
            "/v1/messages/preview", json={"to": self.number(), "from": "MyApp", "message": self.text()}
        )
        for ending in (100, 200, 210, 240, 250, 260, 300):  # see the simulator's table of numbers
            await self.tried(await self.send(self.number(ending)))

    async def webhooks(self) -> None:
        """Endpoints that answer 500, that are gone, and that must not be called."""
        for url in (f"{self._scene.listener.url}/?key={self._callback_secret}", "http://127.0.0.1:9/gone"):
            made = (await self._http.post("/v1/webhooks", json={"url": url})).json()
            path = f"/v1/webhooks/{made['endpoint_id']}"
            rotated = (await self._http.post(f"{path}/rotate", json={})).json()
            self._scene.spoken.forbid("secret", made["secret"], rotated["secret"])
            await self._http.post(f"{path}/test")
        await self._http.post("/v1/webhooks", json={"url": f"http://169.254.169.254/{self._callback_secret}"})
        self._scene.listener.reply_status = 500
        await self.tried(await self.send(callback_url=None))
        await self.tried(await self.send())
        await self._scene.listener.wait_for(3, 60)

    async def failing_providers(self) -> None:
        for fault in ("error", "throttle", "garbage", "drop_after_accept", "hang", "hlr_down", "down"):
            await self._scene.fault(fault)
            for sender in ("MyApp", "MyAppOTP"):
                await self.tried(await self.send(**{"from": sender}))
            await self._http.get(f"/v1/hlr/%2B{self.number()[1:]}?max_age=0")
        await self._scene.fault("none")

    async def bad_requests(self) -> None:
        """Each with something in it that must not come back."""
        number, text, key = self.number(), self.text(), secret("sk_")
        self._scene.spoken.forbid("key", key)
        send = {"to": number, "from": "MyApp", "message": text}
        for body in (
            {**send, "to": number + "x"}, {**send, number: 1}, {**send, "message": [text]}, {**send, "traffic": text},
            {**send, "send_at": number}, {**send, "callback_url": f"http://{key}@example.com/{number}"},
            {**send, "reference": POISON}, {**send, "message": text + "\u0000"}, [text, number],
        ):  # fmt: skip
            await self._http.post("/v1/send", json=body)
        await self._http.post("/v1/send", content=f'{{"to": "{number}", "message": "{text}"'.encode())
        await self._http.post("/v1/send", content=f"{number} {text}".encode(), headers={"Content-Type": "text/plain"})
        for name, value in (
            ("Authorization", f"Bearer {key}"), ("Authorization", f"Basic {key}"), ("X-Request-Id", number),
            ("Idempotency-Key", f"{number} {key}"), ("User-Agent", f"{number} {key}"), ("Cookie", key),
            ("traceparent", f"00-{key}-{number}"), ("tracestate", f"shop={key}"), ("baggage", f"to={number}"),
        ):  # fmt: skip
            await self._http.post("/v1/send", json={"to": "1"}, headers={name: value})
        for method, path in (
            ("GET", f"/v1/messages/{number}"), ("DELETE", f"/v1/suppressions/{number}"), ("GET", f"/{key}/{number}"),
            ("GET", f"/v1/hlr/{number}9999999999"), ("PUT", f"/v1/hlr/{number}"), ("GET", f"/v1/messages?x={number}"),
            ("GET", f"/v1/messages?cursor={key}"), ("PATCH", f"/v1/webhooks/{key}"),
        ):  # fmt: skip
            await self._http.request(method, path)
        await self._http.post("/v1/suppressions", json={"number": number, "reason": text})
        await self._http.post(
            "/v1/suppressions/import", content=f"number\n{number}\n{number}x\n", headers={"Content-Type": "text/csv"}
        )
        nonsense = f"POST /v1/send?to={number} HTTP/1.1\r\nAuthorization: Bearer {key}\r\nX : {text}\r\n\r\n"
        self._scene.spoken.outputs["answer to nonsense"] = repr(
            await Caller(str(self._http.base_url)).says(nonsense.encode())
        )

    async def forged_callbacks(self, dsn: str) -> None:
        """And genuine ones, whose tokens must not be seen anywhere."""
        keyring = Keyring(self._scene.secret_key)
        connection = await asyncpg.connect(dsn)
        attempts = await connection.fetch("SELECT id, provider FROM attempts")
        await connection.close()
        tokens = [keyring.attempt_token(row["provider"], row["id"]) for row in attempts]
        tokens += [keyring.account_token("primary"), keyring.account_token("fallback")]
        self._scene.spoken.forbid("callback token", *tokens)
        number, text = self.number(), self.text()
        for token in (*tokens[:3], tokens[0][:-2] + "AA", tokens[-1]):
            for account in ("primary", "fallback", "nobody"):
                path = f"/v1/receipts/{account}/{token}?to={number}"
                await self._http.post(path, json={"message_id": number, "status": text})
                await self._http.post(path, headers={"webhook-signature": f"v1,{text}", "webhook-id": number})
                await self._http.get(path)

    async def broken_database(self, dsn: str) -> None:
        """Connections that are cut, and rows that a constraint refuses: PostgreSQL quotes them in its log."""
        connection = await asyncpg.connect(dsn)
        await connection.execute(
            f"ALTER TABLE messages ADD CONSTRAINT poison CHECK (reference <> '{POISON}') NOT VALID"
        )
        for _ in range(8):  # so that it meets a worker within a delivery
            await self.send(reference=POISON)
            sends = [asyncio.create_task(self.send()) for _ in range(20)]
            await connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'sms-gateway'"
            )
            await asyncio.gather(*sends)
        await connection.execute("ALTER TABLE attempts RENAME TO attempts_gone")
        await self.send()
        await asyncio.sleep(1)  # so that the worker meets it
        await connection.execute("ALTER TABLE attempts_gone RENAME TO attempts")
        await connection.close()


async def _lived_through(scene: Scene, journey: Journey) -> Spoken:
    worker_port = scene.port + 1
    scene.cli("migrate")
    made = orjson.loads(scene.cli("keys", "create", "--client", "shop", "--scopes", "send,read,hlr,admin", "--json"))
    scene.spoken.forbid("key", made["key"])
    scene.spoken.forbid("secret", made["webhook_secret"])
    scene.http.headers["Authorization"] = f"Bearer {made['key']}"
    token = operators.with_an_issuer(scene)
    async with AsyncExitStack() as stack:
        serve, worker = scene.start(stack, "serve", scene.port), scene.start(stack, "worker", worker_port)
        await scene.is_ready(scene.port)
        await scene.is_ready(worker_port)
        scene.see_processes([serve, worker])
        await journey.ordinary()
        await journey.webhooks()
        await journey.failing_providers()
        await journey.bad_requests()
        await journey.forged_callbacks(scene.dsn)
        await operators.makes_clients_and_keys(scene)
        await operators.calls_with_a_token(scene, token)
        await operators.reloads_bad_files(scene, (serve, worker))
        await journey.broken_database(scene.dsn)
        await scene.fault("hang")
        await journey.send()
        worker = await _crashed(scene, stack, worker, worker_port)
        for port in (scene.port, worker_port):
            scene.spoken.outputs[f"metrics of {port}"] = (await scene.http.get(f"http://127.0.0.1:{port}/metrics")).text
        scene.see_processes([serve, worker])
        assert (serve.stop(), worker.stop()) == (0, 0)
    return scene.collect()


async def _crashed(scene: Scene, stack: AsyncExitStack, worker: Running, port: int) -> Running:
    """Its successor."""
    worker.stop(9)
    successor = scene.start(stack, "worker", port)
    await asyncio.to_thread(eventually, successor.log, lambda log: "took over from a dead worker" in log, 120)
    return successor


async def test_nothing_says_what_nobody_may_know(tmp_path: Path) -> None:
    async with a_scene(tmp_path, TALKATIVE) as scene:
        spoken = await _lived_through(scene, Journey(scene))
    assert spoken.found() == []
    logs = "\n".join(text for where, text in spoken.outputs.items() if where.startswith("log of"))
    assert {trouble for trouble in TROUBLE if trouble not in logs} == set()
    assert {span for span in SPANS if f'name: "{span}"' not in spoken.outputs["traces"]} == set()
    assert len(spoken.forbidden) > 100
    for line in (
        line for where, text in spoken.outputs.items() if where == "log of service" for line in text.splitlines()
    ):
        assert orjson.loads(line)["event"], "nothing that a caller sends begins a line of its own"


def test_the_search_finds_each_of_them() -> None:
    spoken = Spoken()
    spoken.forbid("text", "Your code is 481902.")
    spoken.forbid_numbers("+15555550100")
    spoken.outputs = {"a": '{"event": "Your code is 481902."}', "b": "GET /v1/hlr/%2B15555550100", "c": "+1555*****00"}
    assert [found.partition(":")[0] for found in spoken.found()] == ["text in a", "number in b"]
