"""Where the gateway is and who calls: from arguments, or from the environment."""

from __future__ import annotations

import os
from typing import Any

import httpx


def connection(base_url: str | None, api_key: str | None) -> dict[str, Any]:
    """The arguments of an `httpx` client.

    Raises:
        ValueError: the URL or the key is missing, or can be none.
    """
    url = _url(base_url or os.environ.get("SMS_URL", ""))
    key = api_key or os.environ.get("SMS_API_KEY", "")
    if not key or any(not "!" <= character <= "~" for character in key):
        raise ValueError("Give api_key, or set SMS_API_KEY: a key of the gateway, like sk_..., without spaces.")
    headers = {"Authorization": f"Bearer {key}", "User-Agent": "sms-gateway-client"}
    return {"base_url": url, "headers": headers}


def _url(text: str) -> httpx.URL:
    try:
        url = httpx.URL(text)
    except httpx.InvalidURL:
        url = httpx.URL("")
    if url.scheme not in {"http", "https"} or not url.host:
        raise ValueError("Give base_url, or set SMS_URL: the gateway's address, like https://sms.example.com.")
    return url
