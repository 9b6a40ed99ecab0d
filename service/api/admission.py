"""Who gets in: places and turns for each kind of request, shared by the clients.

A place is taken only after the key check (of receipts: after that of the token), so who has no key takes none. Each
kind has its own, so that no list shuts out a send, and no send an operator.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Final
from uuid import UUID

from service.api.slots import Places, Share, Turns, overloaded
from service.domain.message import Traffic
from service.errors import Problem
from service.storage.clients import Principal
from service.storage.messages import BULKS_AT_ONCE

_READS_FOR_OPERATORS: Final = 1
"""Of the connections for reads."""


def read_turns(connections: int) -> Turns:
    """Turns of clients' reads, on so many connections: one client has half of them, for half of the time."""
    at_once = max(1, connections - _READS_FOR_OPERATORS)
    return Turns(at_once, each=(at_once + 1) // 2, patience_s=2.0, rest=1.0)


@dataclass(frozen=True, slots=True)
class Admission:
    """Made once for a process: it outlives a new `gateway.yaml`. The defaults are documented in docs/operating.md."""

    checks: Places = field(default_factory=lambda: Places(100, overloaded))
    """Keys that are not known yet. The database is asked for them together, every 0.1 s, for 1 s at most.

    No more, since all are answered in the same moment.
    """
    turned_away: Places = field(default_factory=lambda: Places(2000, overloaded))
    turn_away_s: float = 1.0
    """About how long they wait for their refusal who find no place among those.

    Who comes with wrong keys as fast as he is answered would else keep the process busy with nothing but that.
    """
    bodies: Places = field(default_factory=lambda: Places(1000))
    """Bodies of single messages that are yet to come. A body that came with its head takes none."""
    otps: Places = field(default_factory=lambda: Places(1000))
    """OTPs that wait for their commit."""
    sends: Places = field(default_factory=lambda: Places(1000))
    """All other messages that do."""
    bulks: Places = field(default_factory=lambda: Places(32))
    bulk_turns: Turns = field(default_factory=lambda: Turns(BULKS_AT_ONCE, each=BULKS_AT_ONCE - 1, patience_s=5.0))
    reads: Places = field(default_factory=lambda: Places(200))
    read_turns: Turns = field(default_factory=lambda: read_turns(5))
    changes: Places = field(default_factory=lambda: Places(100))
    """Everything else of clients that stores something."""
    change_turns: Turns = field(default_factory=lambda: Turns(3, each=2, patience_s=3.0))
    """So few, because they take connections that receipts, keys and limits need too."""
    imports: Places = field(default_factory=lambda: Places(16))
    """Files of suppressions, which are as large as bulks."""
    lookups: Places = field(default_factory=lambda: Places(200))
    """HLR look-ups."""
    trials: Places = field(default_factory=lambda: Places(32))
    """Test events to endpoints."""
    trial_turns: Turns = field(default_factory=lambda: Turns(8, each=4, patience_s=5.0))
    operators: Places = field(default_factory=lambda: Places(100))
    receipts: Places = field(default_factory=lambda: Places(500, overloaded))
    """By account. Providers repeat what hears 503."""

    async def turn_away(self) -> None:
        """Let a stranger wait for his refusal; at once where too many wait already."""
        with suppress(Problem), self.turned_away.of(object()):
            await asyncio.sleep(self.turn_away_s * random.uniform(0.5, 1.5))  # noqa: S311 - spreads them, no secret

    def accepting(self, principal: Principal, traffic: str | None) -> Share:
        """A place for a message that is to be committed. OTPs have their own, whatever else the client sends."""
        return (self.otps if traffic == Traffic.OTP else self.sends).of(principal.client_id)

    @asynccontextmanager
    async def reading(self, client_id: UUID) -> AsyncIterator[None]:
        """A place and a turn for a read."""
        with self.reads.of(client_id):
            async with self.read_turns.turn(client_id):
                yield

    @asynccontextmanager
    async def changing(self, client_id: UUID) -> AsyncIterator[None]:
        """A place for what stores something. Where a body is yet to come, it takes its turn only then."""
        with self.changes.of(client_id):
            yield

    @asynccontextmanager
    async def changing_now(self, client_id: UUID) -> AsyncIterator[None]:
        """A place and a turn for what stores something."""
        with self.changes.of(client_id):
            async with self.change_turns.turn(client_id):
                yield

    @asynccontextmanager
    async def importing(self, client_id: UUID) -> AsyncIterator[None]:
        """A place for a file, which takes its turn when it has come."""
        with self.imports.of(client_id):
            yield

    @asynccontextmanager
    async def looking_up(self, client_id: UUID) -> AsyncIterator[None]:
        """A place for a look-up at the HLR."""
        with self.lookups.of(client_id):
            yield

    @asynccontextmanager
    async def trying(self, client_id: UUID) -> AsyncIterator[None]:
        """A place and a turn for a test event."""
        with self.trials.of(client_id):
            async with self.trial_turns.turn(client_id):
                yield

    @asynccontextmanager
    async def operating(self, client_id: UUID) -> AsyncIterator[None]:
        """A place for an operator."""
        with self.operators.of(client_id):
            yield
