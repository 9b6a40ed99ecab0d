"""The baseline of `bench.accept`: a bare FastAPI route with a typed body and a typed reply, and nothing behind it."""

from __future__ import annotations

from fastapi import FastAPI
from pydantic import BaseModel, Field


class Send(BaseModel):
    """The required fields of a send."""

    to: str
    sender: str = Field(alias="from")
    message: str


class Sent(BaseModel):
    """A reply of the size of the real one."""

    message_id: str
    status: str
    to: str
    traffic: str
    segments: int
    encoding: str
    created_at: str


app = FastAPI()


@app.post("/bare/send")
async def send(body: Send) -> Sent:
    """Answer at once."""
    return Sent(
        message_id="msg_0190f3c2a6b87cc298f4a1d0c0ffee00",
        status="queued",
        to=body.to,
        traffic="transactional",
        segments=1,
        encoding="gsm-7",
        created_at="2026-01-01T00:00:00.000Z",
    )
