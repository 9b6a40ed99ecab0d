"""What the tests of the interface say often."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import httpx

from service.api.models import ProblemReply

WEBHOOK_SECRET = "whsec_c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0"
CONFIG = f"""
providers:
  primary:
    {{adapter: smsroute, base_url: "http://127.0.0.1:9", api_key: key-of-primary}}
  signing:
    {{adapter: smsroute, base_url: "http://127.0.0.1:9", api_key: key, webhook_secret: "{WEBHOOK_SECRET}"}}
senders:
  MyAppOTP: {{traffic: otp}}
  MyApp: {{traffic: transactional}}
  MyAppPromo: {{traffic: marketing}}
routes:
  - providers: [primary]
limits: {{max_segments: 3, max_recipients: 1200, max_body_bytes: 30000}}
"""
NUMBER = "+15555550100"
BRITISH = "+447700900123"


def body(**fields: Any) -> dict[str, Any]:
    """The body of a send that is accepted, with some fields changed; None takes a field out."""
    whole = {"to": NUMBER, "from": "MyApp", "message": "Your verification code is 481902."} | fields
    return {name: value for name, value in whole.items() if value is not None}


def bulk_body(*recipients: Any, **fields: Any) -> dict[str, Any]:
    return {"recipients": list(recipients), "from": "MyApp", "message": "We open at nine."} | fields


@dataclass(frozen=True, slots=True)
class GatewayClient:
    """Sends requests with a key."""

    http: httpx.AsyncClient

    async def send(self, fields: dict[str, Any], key: str | None = None) -> httpx.Response:
        return await self.http.post("/v1/send", json=fields, headers={"Idempotency-Key": key} if key else None)

    async def bulk(self, fields: dict[str, Any], key: str | None = None) -> httpx.Response:
        return await self.http.post("/v1/send/bulk", json=fields, headers={"Idempotency-Key": key} if key else None)

    async def send_raw(self, raw: bytes, content_type: str = "application/json") -> httpx.Response:
        return await self.http.post("/v1/send", content=raw, headers={"Content-Type": content_type})


def problem(response: httpx.Response, status: int) -> ProblemReply:
    """The problem that was answered, which must have this status."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    answered = ProblemReply.model_validate_json(response.content, strict=True)
    assert answered.status == status
    assert answered.type == f"/problems/{answered.code}"
    assert answered.request_id == response.headers["x-request-id"]
    return answered
