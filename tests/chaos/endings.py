"""SIGTERM under load: what was begun is finished, and who sees it cut complains."""

from __future__ import annotations

import asyncio

from tests.chaos.processes import Command
from tests.chaos.scene import Scene, one_of
from tests.chaos.stage import Stage

_UNDER_WAY_S = 0.4
"""Long enough for work to be begun, and for what was begun to have reached its process."""
_WITHOUT_CALLS = """
SELECT FROM workers AS w
WHERE w.expires_at > now() AND 2 > (
    SELECT count(*) FROM messages AS m JOIN attempts AS a ON a.message_id = m.id
    WHERE m.worker_id = w.id AND a.provider = $1 AND a.outcome IS NULL AND a.started_at > now() - interval '0.2 seconds'
)
"""
"""Living workers that did not just begin two calls to the slow provider. The one that ends must have some: what another
has answered is settled even where nothing is drained."""


async def arm_witness(stage: Stage) -> None:
    """Have PostgreSQL note each attempt that a worker leaves without an outcome when it gives its lease back.

    Only a worker that ends of itself lets its lease end at once.
    """
    await stage.execute(
        """
        CREATE TABLE abandoned (attempt_id uuid, started_at timestamptz);
        CREATE FUNCTION note_abandoned() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            INSERT INTO abandoned
            SELECT a.id, a.started_at FROM messages AS m JOIN attempts AS a ON a.message_id = m.id
            WHERE m.worker_id = NEW.id AND a.outcome IS NULL;
            RETURN NULL;
        END $$;
        CREATE TRIGGER abandoned AFTER UPDATE ON workers FOR EACH ROW
        WHEN (NEW.expires_at <= now()) EXECUTE FUNCTION note_abandoned()
        """
    )


async def terminate_serve(scene: Scene) -> None:
    """As Kubernetes does it: no new connections, then SIGTERM."""
    door = scene.stage.door
    async with one_of(scene, scene.stage.serves) as serve:
        if serve.running:
            await _end_serve(scene, serve)
        await serve.start()
        door.closed.discard(scene.stage.port_of(serve))


async def _end_serve(scene: Scene, serve: Command) -> None:
    """The store stands still, so that requests are under way."""
    stage, port = scene.stage, scene.stage.port_of(serve)
    async with scene.alone("postgres"):
        frozen = stage.postgres.freeze()
        try:
            await asyncio.sleep(_UNDER_WAY_S)
            stage.door.closed.add(port)
            begun = stage.door.under_way(port)
            await asyncio.sleep(_UNDER_WAY_S)
            ending = asyncio.create_task(_end(scene, serve))
            await asyncio.sleep(_UNDER_WAY_S)
        finally:
            stage.postgres.thaw(frozen)
        await ending
    if cut := sum(request.cut for request in begun):
        scene.complaints.append(f"SIGTERM cut {cut} of {len(begun)} requests to {serve.name}")


async def terminate_worker(scene: Scene) -> None:
    """SIGTERM while calls are under way."""
    async with one_of(scene, scene.stage.workers) as worker:
        if worker.running:
            await _end_worker(scene, worker)
        await worker.start()


async def _end_worker(scene: Scene, worker: Command) -> None:
    """The store is well, so nothing excuses an attempt that is abandoned."""
    stage = scene.stage
    async with scene.alone("postgres"), scene.alone(stage.primary):
        await asyncio.sleep(_UNDER_WAY_S)  # so that a connection that a former fault broke has been found broken
        since = (await stage.fetch("SELECT now() AS now"))[0]["now"]
        # Without receipts: one that comes before its answer, as it does after 0.1 s, says the outcome as well.
        await stage.primary.fault("no_receipt", latency_s=0.4)
        await asyncio.sleep(_UNDER_WAY_S)
        await _until_it_calls(stage)
        await _end(scene, worker)
        await stage.primary.fault("none")
        if left := await stage.fetch("SELECT FROM abandoned WHERE started_at > $1", since):
            scene.complaints.append(f"SIGTERM: {worker.name} abandoned {len(left)} attempts")


async def _until_it_calls(stage: Stage) -> None:
    """All of them, but not for ever: where no messages come there are no calls."""
    for _ in range(60):
        if not await stage.fetch(_WITHOUT_CALLS, stage.primary.name):
            return
        await asyncio.sleep(0.05)


async def _end(scene: Scene, command: Command) -> None:
    try:
        code = await command.terminate()
    except TimeoutError:
        scene.complaints.append(f"{command.name} did not drain in 30 s")
        await command.kill()
    else:
        if code != 0:
            scene.complaints.append(f"{command.name} ended with {code} after SIGTERM")
