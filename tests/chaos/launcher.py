"""The gateway's command line with a fault of its own.

    python -m tests.chaos.launcher [--clock S] [--sabotage NAME] serve

`--clock` shifts the process's idea of what time it is by so many seconds. `--sabotage` breaks one promise on purpose,
to show that the suite notices:

- `ack-before-commit`: a send is answered before it is stored.
- `no-lease`: a worker calls a provider without asking whether the message is still its own.
- `no-drain`: what is under way at SIGTERM gets no time to end.
- `early-fail`: what no provider takes at once is given up, under one pretext or another.
- `resend`: what a provider without idempotency keys may have goes to the next provider, whatever it is.
"""

from __future__ import annotations

import argparse
import asyncio
import datetime as dt
import os
import sys
import time
from collections.abc import Sequence
from typing import Any, Final


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--clock", type=float, default=0.0, metavar="S")
    parser.add_argument("--sabotage", choices=sorted(SABOTAGES))
    parser.add_argument("command", nargs=argparse.REMAINDER)
    options = parser.parse_args(arguments)
    if options.clock:
        shift_clock(options.clock)  # before anything of the service is imported
    if options.sabotage:
        SABOTAGES[options.sabotage]()
    from service.cli import main as command_line  # noqa: PLC0415 - see above
    from tests.chaos import keyless  # noqa: PLC0415 - see above

    keyless.make_known()

    sys.argv = ["sms-gateway", *options.command]
    command_line()


def shift_clock(seconds: float) -> None:
    """Shift the wall clock of this process. Its monotonic clock stays."""
    real_time, real_time_ns, real = time.time, time.time_ns, dt.datetime

    class Kind(type):
        def __instancecheck__(cls, value: object) -> bool:
            return isinstance(value, real)

        def __subclasscheck__(cls, kind: type) -> bool:
            return issubclass(kind, real)

    class Shifted(dt.datetime, metaclass=Kind):
        def __new__(cls, *arguments: Any, **named: Any) -> Any:  # what is made is a real one
            return real(*arguments, **named)

        @classmethod
        def now(cls, tz: dt.tzinfo | None = None) -> Any:
            return real.now(tz) + dt.timedelta(seconds=seconds)

    time.time = lambda: real_time() + seconds
    time.time_ns = lambda: real_time_ns() + int(seconds * 1e9)
    dt.datetime = Shifted  # type: ignore[misc]


def _ack_before_commit() -> None:
    from service.storage import messages  # noqa: PLC0415 - only where it is wanted

    store: Any = messages.MessageStore
    commit = store.add
    under_way: set[asyncio.Task[Any]] = set()

    async def add(self: Any, message: Any, key: Any) -> Any:
        async def later() -> None:
            await asyncio.sleep(0.2)
            await commit(self, message, key)

        task = asyncio.create_task(later())
        under_way.add(task)
        task.add_done_callback(under_way.discard)
        return dt.datetime.now(dt.UTC)

    store.add = add


_BEGIN_FOR_ANYBODY: Final = """
    INSERT INTO attempts AS a (id, message_id, provider)
    SELECT id, message_id, provider
    FROM unnest($1::uuid[], $2::uuid[], $3::text[], $4::uuid[]) AS i (id, message_id, provider, worker_id)
    ON CONFLICT (id) DO UPDATE SET calls = a.calls + 1
    RETURNING id, 5.0::float8 AS call_s, 10 AS validity_s
"""


def _no_lease() -> None:
    from service.storage.sql import queries  # noqa: PLC0415 - only where it is wanted

    queries("deliver")["begin_attempts"] = _BEGIN_FOR_ANYBODY  # read once for the whole process: the queue sees it


def _no_drain() -> None:
    os.environ["SMS_GATEWAY_DRAIN_S"] = "0"


def _early_fail() -> None:
    from service.domain.message import Traffic  # noqa: PLC0415 - only where it is wanted
    from service.pipeline import submit  # noqa: PLC0415
    from service.storage.queue import Move, Settlement  # noqa: PLC0415

    ends = {
        Traffic.OTP: (Move.FAIL, "expired"),
        Traffic.TRANSACTIONAL: (Move.FAIL, "refused_by_providers"),
        Traffic.MARKETING: (Move.FAIL, "no_route"),
    }

    def nobody(work: submit.Work, _: object) -> Settlement:
        return work.settle(*ends[work.message.traffic])

    vars(submit)["_nobody"] = nobody


def _resend() -> None:
    from service.domain import routing  # noqa: PLC0415 - only where it is wanted

    route: Any = routing.Route
    route.resends = lambda *_: True


SABOTAGES: Final = {
    "ack-before-commit": _ack_before_commit,
    "no-lease": _no_lease,
    "no-drain": _no_drain,
    "early-fail": _early_fail,
    "resend": _resend,
}

if __name__ == "__main__":
    main()
