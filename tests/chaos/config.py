"""`gateway.yaml` for a stage, and what is changed in it."""

from __future__ import annotations

from typing import Final

from tests.chaos.keyless import NAME as KEYLESS

CONFIG: Final = """
providers:
  primary:
    {{adapter: smsroute, base_url: "{primary}", api_key: key, webhook_secret: "{secret}", timeout_s: 2, cost: 0.05}}
  fallback:
    {{adapter: smsroute, base_url: "{fallback}", api_key: key, webhook_secret: "{secret}", timeout_s: 2, cost: 0.05}}
senders:
  MyAppOTP: {{traffic: otp}}
  MyApp: {{traffic: transactional}}
  MyAppPromo: {{traffic: marketing}}
routes:
  - {{providers: [primary, fallback], hlr: required}}
hlr: {{provider: primary, budget_s: 0.5, timeout_s: 0.5, cost: 0.005}}
webhooks: {{allow_loopback: true, timeout_s: 2}}
limits: {{receipt_wait_hours: 0.001}}
deliver: {{poll_s: 0.05, otp_repeat_s: 0.2, lease_s: 3}}
"""
"""Compressed times: a lease of 3 s, a receipt waited for 3.6 s, calls of 2 s. `a_stage` takes another."""


def edited(config: str, *changes: tuple[str, str]) -> str:
    """`config` with each first text replaced by its second. A text that is not there is the test's mistake."""
    for old, new in changes:
        assert old in config, old
        config = config.replace(old, new)
    return config


_ACCOUNT: Final = "{name}:\n    {{{{adapter: {adapter}, base_url"


def keyless(config: str, *names: str) -> str:
    """`config` with accounts that know no idempotency keys."""
    swaps = [
        (_ACCOUNT.format(name=name, adapter="smsroute"), _ACCOUNT.format(name=name, adapter=KEYLESS)) for name in names
    ]
    return edited(config, *swaps)


PACED: Final = edited(CONFIG, ("MyAppPromo: {{traffic: marketing}}", "MyAppPromo: {{traffic: marketing, mps: 8}}"))
"""Marketing waits at the gate, for up to a second after its claim."""

VARIANTS: Final = (CONFIG, keyless(PACED, "primary"), keyless(PACED, "primary", "fallback"))


PROVIDERS_OF_THE_WORLD: Final = {"latency_s": 0.05, "jitter_s": 0.4}
"""250 ms on the average."""
RECEIVERS_OF_THE_WORLD_S: Final = 0.1


def far_away(seed: int) -> bool:
    """Whether the others answer as late as those of the world in the round with this seed: a third of each variant."""
    return seed // len(VARIANTS) % 3 == 0


def config_of(seed: int) -> str:
    """Of the round with this seed."""
    return VARIANTS[seed % len(VARIANTS)]
