"""Trial: one test event to a registered endpoint, signed and sent like every webhook, tried once and at once."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

import httpx
import orjson

from service.domain.ids import new_id, show
from service.errors import HttpError
from service.pipeline.notify import signed_request
from service.runtime import Runtime
from service.storage.endpoints import Endpoint


@dataclass(frozen=True, slots=True)
class Trial:
    """What came of it. `error` is what the delivery of a receipt would have noted."""

    webhook_id: str
    delivered: bool
    http_status: int | None
    error: str | None


async def try_endpoint(runtime: Runtime, endpoint: Endpoint) -> Trial:
    """Send a `webhook.test`. No connection to the database is held meanwhile."""
    webhook_id = show("whd", new_id())
    now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    content = orjson.dumps({"type": "webhook.test", "endpoint_id": show("whe", endpoint.id), "created_at": now})
    secrets = (endpoint.secret, endpoint.previous_secret)
    request = signed_request(endpoint.url, webhook_id, content, secrets, runtime.keyring)
    if request is None:
        return Trial(webhook_id, delivered=False, http_status=None, error="secret_unreadable")
    try:
        response = await runtime.trial_http.send(request, timeout_s=runtime.config.webhooks.timeout_s)
    except HttpError as error:
        return Trial(webhook_id, delivered=False, http_status=None, error=f"{type(error).__name__}: {error}"[:200])
    status = response.status_code
    delivered = httpx.codes.is_success(status)
    return Trial(webhook_id, delivered, status, None if delivered else f"http_{status}")
