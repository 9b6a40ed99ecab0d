"""Recipients a second in bulks, against raw COPY: `python -m bench.bulk [--turns 5] [--seconds 4] [--json]`.

The baseline is COPY of rows that the gateway stored, with new ids, in PostgreSQL's binary form, over as many
connections as there are clients, each transaction as large as a bulk: into the same table of the same server, fsync on.
Both sides run in turns and begin with empty tables; the ratio of each turn counts, and the median is the result.

Then single sends, 50 a second, alone and beside bulks of each size. The gateway's side has everything on: API key,
limit, idempotency key, metrics, log. One `serve`; no worker, so that only the accept is measured.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import tempfile
import time
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Final

import asyncpg

from bench.load import Plan, Result, measure
from bench.report import parser, report
from bench.world import SERVE, World, a_number, a_world

_CONFIG: Final = """
providers:
  primary: {{adapter: smsroute, base_url: "http://127.0.0.1:9", api_key: none}}
senders: {{MyAppOTP: {{traffic: otp}}, MyAppPromo: {{traffic: marketing}}}}
routes: [{{providers: [primary]}}]
limits:
  rates: {{send: {{per_s: 100000, burst: 100000}}, bulk: {{per_s: 1000000, burst: 1000000}}}}
"""
_SIZES: Final = (1_000, 10_000)
_CLIENTS: Final = 2
_SINGLES_PER_S: Final = 50
_COPIED: Final = 200_000
_COLUMNS: Final = (
    "client_id, batch_id, recipient, sender, body, traffic, country, encoding, segments, reference, callback_url, "
    "send_at, due_at, expires_at, created_at"
)


def _bulks(world: World, size: int, seconds: float) -> Plan:
    recipients = [a_number() for _ in range(size)]
    body = json.dumps({"from": "MyAppPromo", "message": "We open at nine.", "recipients": recipients})
    headers = {**world.headers["others"], "Idempotency-Key": "{n}"}
    return Plan(f"{world.url}/v1/send/bulk", headers, body, connections=_CLIENTS, seconds=seconds)


def _singles(world: World, seconds: float) -> Plan:
    body = json.dumps({"to": "{to}", "from": "MyAppOTP", "message": "Your verification code is 481902."})
    headers = {**world.headers["mine"], "Idempotency-Key": "{n}"}
    return Plan(f"{world.url}/v1/send", headers, body, connections=8, seconds=seconds, rate=_SINGLES_PER_S)


async def _empty(dsn: str) -> None:
    connection = await asyncpg.connect(dsn)
    try:
        await connection.execute("TRUNCATE messages, batches, idempotency_keys")
        await connection.execute("CHECKPOINT")  # none in the middle of one side
    finally:
        await connection.close()


async def _rows(dsn: str, size: int) -> list[bytes]:
    """What COPY takes: the rows of a stored bulk, again and again with new ids."""
    connection = await asyncpg.connect(dsn)
    query = f"SELECT new_id(), {_COLUMNS} FROM messages WHERE batch_id IS NOT NULL ORDER BY id LIMIT {size}"  # noqa: S608 - constants
    try:
        pieces = []
        for _ in range(_COPIED // size):
            await connection.copy_from_query(query, output=(piece := BytesIO()), format="binary")
            pieces.append(piece.getvalue())
        return pieces
    finally:
        await connection.close()


async def _copy(dsn: str, pieces: Sequence[bytes]) -> None:
    connection = await asyncpg.connect(dsn)
    try:
        for piece in pieces:
            await connection.copy_to_table(
                "messages", source=BytesIO(piece), columns=["id", *_COLUMNS.split(", ")], format="binary"
            )
    finally:
        await connection.close()


async def _copied_per_s(dsn: str, pieces: Sequence[bytes]) -> float:
    await _empty(dsn)
    began_s = time.perf_counter()
    await asyncio.gather(*(_copy(dsn, pieces[number::_CLIENTS]) for number in range(_CLIENTS)))
    return _COPIED / (time.perf_counter() - began_s)


async def _turns(world: World, size: int, turns: int, seconds: float) -> list[tuple[float, Result]]:
    """Rows copied a second, and the bulks, of each turn."""
    plan = _bulks(world, size, seconds)
    await measure(plan)  # warm up
    pieces = await _rows(world.dsn, size)
    results = []
    for _ in range(turns):
        copied_per_s = await _copied_per_s(world.dsn, pieces)
        await _empty(world.dsn)
        results.append((copied_per_s, await measure(plan)))
    return results


async def _run(turns: int, seconds: float) -> tuple[dict[int, list[tuple[float, Result]]], dict[str, Result]]:
    with tempfile.TemporaryDirectory() as name:
        async with a_world(Path(name), _CONFIG, [], parts=[SERVE]) as world:
            results = {size: await _turns(world, size, turns, seconds) for size in _SIZES}
            lasting_s = max(seconds, 10.0)
            singles = {"alone": await measure(_singles(world, lasting_s))}
            for size in _SIZES:
                await _empty(world.dsn)
                bulks, beside = _bulks(world, size, lasting_s), _singles(world, lasting_s)
                _, singles[f"beside_{size}"] = await asyncio.gather(measure(bulks), measure(beside))
            return results, singles


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--turns", type=int, default=5)
    arguments.add_argument("--seconds", type=float, default=4.0, help="of each turn")
    options = arguments.parse_args()
    results, singles = asyncio.run(_run(options.turns, options.seconds))
    figures: dict[str, float] = {}
    ratios: dict[str, float] = {}
    print(f"{'size':>6}  {'COPY rows/s':>11}  {'recipients/s':>12}  {'ratio':>5}  {'p50 ms':>7}  generator CPU")
    for size, turns in results.items():
        for copied_per_s, bulks in turns:
            if set(bulks.statuses) != {"200"}:
                raise SystemExit(f"not every answer was 200: {bulks.statuses}")
            stored_per_s, ratio = bulks.rate * size, bulks.rate * size / copied_per_s
            cells = (
                f"{copied_per_s:>11.0f}  {stored_per_s:>12.0f}  {ratio:>5.2f}  {bulks.p50_ms:>7.0f}  {bulks.cpu:.2f}"
            )
            print(f"{size:>6}  {cells}")
        figures |= {
            f"copied_per_s_by_{size}": statistics.median(copied for copied, _ in turns),
            f"recipients_per_s_by_{size}": statistics.median(bulks.rate * size for _, bulks in turns),
        }
        ratios[f"bulk/copy_by_{size}"] = statistics.median(bulks.rate * size / copied for copied, bulks in turns)
        print(f"median ratio in bulks of {size}: {ratios[f'bulk/copy_by_{size}']:.2f} (at least 0.3 is wanted)")
    for name, result in singles.items():
        print(f"singles {name}: p50 {result.p50_ms:.1f} ms, p99 {result.p99_ms:.1f} ms, {result.statuses}")
        figures |= {f"singles_{name}_p50_ms": result.p50_ms, f"singles_{name}_p99_ms": result.p99_ms}
        if name != "alone":
            ratios[f"singles_{name}/alone_p99"] = result.p99_ms / singles["alone"].p99_ms
    report(options, "bulk", figures, ratios)


if __name__ == "__main__":
    main()
