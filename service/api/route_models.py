"""The JSON of `GET /v1/routes`."""

from __future__ import annotations

from datetime import datetime
from typing import Final, Literal

from pydantic import ConfigDict, Field

from service.api.models import Reply
from service.domain.health import Cause, Condition
from service.domain.message import Traffic

BREAKER_OPEN: Final = "breaker_open"


class SamplesReply(Reply):
    """The newest samples, which the standing is judged by. `undelivered` leaves out what lies with the subscriber.

    `openings`: how often a worker's breaker opened. That worker then sends nothing to the provider for 5 s or longer,
    after which its traffic grows again, whatever the standing.
    """

    calls: int
    failures: int
    slow: int
    delivered: int
    undelivered: int
    openings: int


class StandingReply(Reply):
    """How a provider stands in a country for a class of traffic."""

    country: str
    traffic: Traffic
    state: Condition
    share: float = Field(description="Of its messages, the part (0 to 1) that tries it in its place of the route.")
    reason: Cause | Literal["breaker_open"] | None = Field(
        description="Why it stood back. `breaker_open`: calls failed and none has worked since. Null: healthy."
    )
    since: datetime | None = Field(description="When this state began. Null: it never had another.")
    samples: SamplesReply


class PausedReply(Reply):
    """An operator has paused the provider: it gets nothing, whatever its standings."""

    reason: str
    since: datetime


class RouteProvider(Reply):
    """A provider of a route. What has no standing here is healthy and has not been called lately."""

    provider: str
    paused: PausedReply | None
    standings: list[StandingReply]


class RouteStanding(Reply):
    """A route of `gateway.yaml`, counted from 0. Null for traffic or countries: all."""

    index: int
    traffic: Traffic | None
    countries: list[str] | None
    providers: list[RouteProvider]


class RouteList(Reply):
    """The routes that this client can use, in the order of `gateway.yaml`."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "routes": [
                        {
                            "index": 0,
                            "traffic": None,
                            "countries": None,
                            "providers": [
                                {
                                    "provider": "primary",
                                    "paused": None,
                                    "standings": [
                                        {
                                            "country": "US",
                                            "traffic": "transactional",
                                            "state": "recovering",
                                            "share": 0.55,
                                            "reason": "submit_errors",
                                            "since": "2026-01-31T09:30:00.123Z",
                                            "samples": {
                                                "calls": 120,
                                                "failures": 1,
                                                "slow": 0,
                                                "delivered": 96,
                                                "undelivered": 2,
                                                "openings": 0,
                                            },
                                        }
                                    ],
                                }
                            ],
                        }
                    ]
                }
            ]
        }
    )

    routes: list[RouteStanding]
