"""What a simulated provider is told when it starts."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

CONTROL_OFFSET = 10


@dataclass(frozen=True, slots=True)
class SimulatorSettings:
    """One simulated provider. Control is on `port` + 10; port 0 takes two free ports.

    `webhook_secret` signs the receipts (Standard Webhooks, `whsec_...`). The ledger is `data_dir`/`name`.jsonl.
    `account_callback_url` gets the receipts of sends that name no `callback_url`. Delays are in seconds.
    """

    name: str
    host: str
    port: int
    api_key: str = field(repr=False)
    webhook_secret: str = field(repr=False)
    data_dir: Path
    receipt_delay_s: float = 0.2
    slow_receipt_delay_s: float = 30.0
    account_callback_url: str | None = None
