"""Everything that goes wrong in a round. Each fault undoes itself; who needs the same part waits for the other."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from typing import Any, Final

import aiohttp
import asyncpg
import orjson
from standardwebhooks.webhooks import Webhook

from service.domain.keyring import Keyring
from tests.chaos.endings import terminate_serve, terminate_worker
from tests.chaos.processes import Command
from tests.chaos.scene import Fault, Scene, one_of
from tests.chaos.stage import SECRET_KEY, SIGNING_SECRET, Provider, Stage

_LONGER_THAN_A_LEASE_S: Final = 4.5


async def _kill(scene: Scene, commands: list[Command]) -> None:
    async with one_of(scene, commands) as command:
        scene.kills += 1
        await command.kill()
        await asyncio.sleep(scene.rng.uniform(0, 1))
        await command.start()


async def kill_serve(scene: Scene) -> None:
    await _kill(scene, scene.stage.serves)


async def kill_worker(scene: Scene) -> None:
    await _kill(scene, scene.stage.workers)


async def kill_both(scene: Scene) -> None:
    await asyncio.gather(kill_serve(scene), kill_worker(scene))


async def kill_every_gateway(scene: Scene) -> None:
    everything = [*scene.stage.serves, *scene.stage.workers]
    await asyncio.gather(*(_kill(scene, [command]) for command in everything))


async def kill_provider(scene: Scene) -> None:
    await _kill(scene, list(scene.stage.providers))


async def stop_worker(scene: Scene) -> None:
    """A worker stands still until its lease is over and its work is others', and then goes on."""
    async with one_of(scene, scene.stage.workers) as worker:
        worker.stop()
        await asyncio.sleep(_LONGER_THAN_A_LEASE_S)
        worker.go_on()


async def shift_clocks(scene: Scene) -> None:
    """One server is an hour ahead for the rest of the round and one worker an hour behind, or the other way round."""
    hours = scene.rng.choice([3600, -3600])
    scene.clocks_shifted = True
    for command, seconds in (
        (scene.rng.choice(scene.stage.serves), hours),
        (scene.rng.choice(scene.stage.workers), -hours),
    ):
        async with scene.alone(command):
            command.launch = ("--clock", str(seconds))
            scene.kills += 1
            await command.restart()
            command.launch = ()


async def kill_postgres(scene: Scene) -> None:
    async with scene.alone("postgres"):
        scene.kills += 1
        await scene.stage.postgres.kill()
        await asyncio.sleep(scene.rng.uniform(0, 1.5))
        await scene.stage.postgres.start()


async def kill_postgres_after_claims(scene: Scene) -> None:
    """At once after a claim, whose commit does not wait for the disk, while what it claimed waits for its turn.

    And up again at once, so that what the crash took back is claimed anew while its first claim is remembered.
    """
    async with scene.alone("postgres"):
        family = scene.stage.postgres.family()
        await _until_claimed(scene.stage)
        scene.kills += 1
        await scene.stage.postgres.kill(family)
        await scene.stage.postgres.start()


async def _until_claimed(stage: Stage) -> None:
    """But not for ever: where no messages come there are no claims."""
    waiting = (
        "SELECT count(*) > 2 AND pg_current_wal_insert_lsn() > pg_current_wal_flush_lsn() FROM messages AS m"
        " WHERE worker_id IS NOT NULL AND NOT EXISTS (SELECT FROM attempts WHERE message_id = m.id)"
    )
    with suppress(OSError, asyncpg.PostgresError, asyncpg.InterfaceError, TimeoutError):
        async with asyncio.timeout(2), stage.connection() as connection:
            while not await connection.fetchval(waiting):  # noqa: ASYNC110 - what other processes do sets no event
                await asyncio.sleep(0.002)


async def restart_postgres(scene: Scene) -> None:
    async with scene.alone("postgres"):
        await scene.stage.postgres.stop()
        await scene.stage.postgres.start()


async def cut_connections(scene: Scene) -> None:
    async with scene.alone("postgres"):
        for _ in range(scene.rng.randint(1, 3)):
            with suppress(OSError, asyncpg.PostgresError):
                await scene.stage.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'sms-gateway'"
                )
            await asyncio.sleep(scene.rng.uniform(0.1, 0.5))


async def freeze_backends(scene: Scene) -> None:
    async with scene.alone("postgres"):
        frozen = scene.stage.postgres.freeze()
        try:
            await asyncio.sleep(scene.rng.uniform(0.5, 4))
        finally:
            scene.stage.postgres.thaw(frozen)


async def _provider_fault(scene: Scene, fault: str, **more: Any) -> None:
    provider = scene.rng.choice(scene.stage.providers)
    async with scene.alone(provider):
        await _set(provider, fault, **more)
        await asyncio.sleep(scene.rng.uniform(0.5, 2.5))
        await _set(provider, "none")


async def _set(provider: Provider, fault: str, **more: Any) -> None:
    with suppress(aiohttp.ClientError):  # it is being killed just now, and forgets its fault anyway
        await provider.fault(fault, **more)


async def flapping(scene: Scene) -> None:
    provider = scene.rng.choice(scene.stage.providers)
    async with scene.alone(provider):
        for _ in range(5):
            for fault in ("down", "none"):
                await _set(provider, fault)
                await asyncio.sleep(scene.rng.uniform(0.1, 0.4))


async def storm_of_429(scene: Scene) -> None:
    async with scene.alone(scene.stage.primary), scene.alone(scene.stage.fallback):
        for fault in ("throttle", "none"):
            await asyncio.gather(*(_set(provider, fault) for provider in scene.stage.providers))
            await asyncio.sleep(2 * (fault == "throttle"))


async def hlr_slow(scene: Scene) -> None:
    async with scene.alone(scene.stage.primary):
        await _set(scene.stage.primary, "none", latency_s=0.7)
        await asyncio.sleep(2)
        await _set(scene.stage.primary, "none")


async def hlr_down(scene: Scene) -> None:
    async with scene.alone(scene.stage.primary):
        await _set(scene.stage.primary, "hlr_down")
        await asyncio.sleep(2)
        await _set(scene.stage.primary, "none")


async def _webhook_status(scene: Scene, status: int, headers: dict[str, str] | None = None) -> None:
    async with scene.alone("webhook"):
        scene.sick.reply_status, scene.sick.reply_headers = status, headers or {}
        await asyncio.sleep(scene.rng.uniform(0.5, 2))
        scene.sick.reply_status, scene.sick.reply_headers = 204, {}


async def webhook_down(scene: Scene) -> None:
    async with scene.alone("webhook"):
        await scene.sick.stop()
        await asyncio.sleep(scene.rng.uniform(0.5, 2))
        await scene.sick.start()


async def webhook_slow(scene: Scene) -> None:
    """Slower than the gateway waits."""
    async with scene.alone("webhook"):
        usual_s, scene.sick.delay = scene.sick.delay, 3.0
        await asyncio.sleep(scene.rng.uniform(0.5, 2))
        scene.sick.delay = usual_s


async def forged_receipts(scene: Scene) -> None:
    """Receipts with a true token and a wrong signature, and the other way round, say that all is lost."""
    stage, keyring = scene.stage, Keyring(SECRET_KEY)
    for attempt in await _attempts(scene, "status <> 'delivered'"):
        account, token = attempt["provider"], keyring.attempt_token(attempt["provider"], attempt["id"])
        wrong = f"{token[:30]}{'A' if token[30] != 'A' else 'B'}{token[31:]}"
        body = _receipt(attempt, "undelivered")
        for place, secret in ((token, "whsec_" + "Zm9yZ2Vk" * 4), (wrong, SIGNING_SECRET)):
            status = await _post(f"{stage.door.url}/v1/receipts/{account}/{place}", body, secret)
            if status not in {0, 403, 404, 503}:
                scene.complaints.append(f"a forged receipt was answered {status}")


async def receipts_out_of_order(scene: Scene) -> None:
    """Genuine receipts once more, late: first `sent`, then `undelivered`, of what was delivered long ago."""
    keyring = Keyring(SECRET_KEY)
    for attempt in await _attempts(scene, "status = 'delivered'"):
        url = f"{scene.stage.door.url}/v1/receipts/{attempt['provider']}/"
        for status in ("delivered", "sent", "undelivered"):
            await _post(
                url + keyring.attempt_token(attempt["provider"], attempt["id"]),
                _receipt(attempt, status),
                SIGNING_SECRET,
            )


async def _attempts(scene: Scene, condition: str) -> list[asyncpg.Record]:
    """Some attempts of messages of which this holds."""
    with suppress(OSError, asyncpg.PostgresError, TimeoutError):
        return await scene.stage.fetch(
            "SELECT a.id, a.provider, a.provider_message_id"  # noqa: S608 - our own words
            " FROM attempts AS a JOIN messages AS m ON m.id = a.message_id"
            f" WHERE {condition} AND a.provider_message_id IS NOT NULL ORDER BY a.id DESC LIMIT 10"
        )
    return []


def _receipt(attempt: asyncpg.Record, status: str) -> bytes:
    return orjson.dumps(
        {"message_id": attempt["provider_message_id"], "status": status, "error_code": 27 * (status == "undelivered")}
    )


async def _post(url: str, body: bytes, secret: str) -> int:
    now = datetime.now(UTC)
    headers = {
        "webhook-id": "receipt_1",
        "webhook-timestamp": str(int(time.time())),
        "webhook-signature": Webhook(secret).sign("receipt_1", now, body.decode()),
    }
    try:
        async with aiohttp.ClientSession() as http, http.post(url, data=body, headers=headers) as answer:
            return answer.status
    except (aiohttp.ClientError, TimeoutError):
        return 0


FAULTS: Final[Mapping[str, Fault]] = {
    fault.__name__: fault
    for fault in (
        kill_serve, kill_worker, kill_both, kill_every_gateway, kill_provider, terminate_serve, terminate_worker,
        stop_worker, shift_clocks, kill_postgres, kill_postgres_after_claims, restart_postgres, cut_connections,
        freeze_backends, flapping, storm_of_429, hlr_slow, hlr_down, webhook_down, webhook_slow, forged_receipts,
        receipts_out_of_order,
    )
} | {
    name: partial(_provider_fault, fault=name, rate=rate)
    for name, rate in {
        "down": 1.0, "hang": 0.5, "throttle": 0.5, "error": 0.5, "drop_after_accept": 0.7, "garbage": 0.7,
        "duplicate_receipt": 1.0, "early_receipt": 1.0, "no_receipt": 0.5,
    }.items()
} | {
    "webhook_500": partial(_webhook_status, status=500),
    "webhook_429": partial(_webhook_status, status=429, headers={"Retry-After": "2"}),
}  # fmt: skip
"""By name. A poisonous row, a gone endpoint (410), cancels and keyless sends are in every round's traffic."""
