"""Whatever is sent, the answer is never a 5xx, and always JSON."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import quote

import httpx
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.api.client import NUMBER, GatewayClient

_FEW = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])

_text = st.text(alphabet=st.characters(), max_size=40)
_values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | _text | st.sampled_from([NUMBER, "MyApp", "otp"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_text, inner, max_size=3),
    max_leaves=8,
)
_good = {
    "to": st.just(NUMBER),
    "from": st.just("MyApp"),
    "message": st.just("Hello"),
    "traffic": st.just("transactional"),
    "callback_url": st.just("https://example.com/"),
    "reference": st.just("r"),
    "send_at": st.datetimes().map(lambda at: f"{at.isoformat()}Z"),
    "validity_period": st.integers(1, 604_800),
    "recipients": st.just([NUMBER]),
}
_times = st.from_regex(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,9})?[+-][0-9]{2}:[0-9]{2}", fullmatch=True
)
_urls = st.builds("{}://{}{}".format, st.sampled_from(["http", "https", "HTTP", "file"]), _text, _text)
_bodies = st.fixed_dictionaries(
    {},
    optional={
        name: good | _values | (_times if name == "send_at" else _urls if name == "callback_url" else _text)
        for name, good in _good.items()
    },
).map(lambda fields: json.dumps(fields, allow_nan=True).encode())


def _check(response: httpx.Response) -> None:
    assert response.status_code < 500, response.text
    assert "json" in response.headers["content-type"]
    response.json()


@_FEW
@given(raw=st.binary(max_size=200) | _bodies | _values.map(lambda value: json.dumps(value).encode()))
async def test_no_body_breaks_a_send(api: GatewayClient, raw: bytes) -> None:
    _check(await api.send_raw(raw))


@_FEW
@given(raw=_bodies)
async def test_no_body_breaks_a_bulk(api: GatewayClient, raw: bytes) -> None:
    headers = {"Content-Type": "application/json", "Idempotency-Key": f"fuzz-{hash(raw)}"}
    _check(await api.http.post("/v1/send/bulk", content=raw, headers=headers))


@_FEW
@given(url=_urls)
async def test_no_callback_url_breaks_a_send(api: GatewayClient, url: str) -> None:
    fields = {"to": NUMBER, "from": "MyApp", "message": "Hello", "callback_url": url}
    _check(await api.send_raw(json.dumps(fields).encode()))


@_FEW
@given(part=_text.filter(lambda part: part not in {".", ".."}), query=_text)
async def test_no_path_breaks_a_look_up(api: GatewayClient, part: str, query: str) -> None:
    shown = quote(part.encode("utf-8", "surrogatepass"), safe="+")
    asked = quote(query.encode("utf-8", "surrogatepass"), safe="=&")
    for path in ("/v1/hlr/", "/v1/messages/", "/v1/batches/"):
        _check(await api.http.get(f"{path}{shown}?max_age={asked}"))
    _check(await api.http.post(f"/v1/receipts/primary/{shown}?{asked}", content=b"x"))


_header = st.binary(max_size=40).map(lambda raw: bytes(byte for byte in raw if byte >= 0x20 and byte != 0x7F).strip())


@_FEW
@given(name=st.sampled_from(["Authorization", "Idempotency-Key", "Content-Type", "X-Request-Id"]), value=_header)
async def test_no_header_breaks_a_send(api: GatewayClient, name: str, value: bytes) -> None:
    headers: Any = {"Content-Type": "application/json"} | {name: value}
    content = json.dumps({"to": NUMBER, "from": "MyApp", "message": "Hello"}).encode()
    _check(await api.http.post("/v1/send", content=content, headers=headers))
