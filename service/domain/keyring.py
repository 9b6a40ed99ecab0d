"""Everything that is derived from the service's one secret key."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import secrets
from functools import lru_cache
from typing import Final
from uuid import UUID

from cryptography.fernet import Fernet, InvalidToken, MultiFernet

_TOKEN_MAC_BYTES = 10  # 80 bits: a guess cannot be checked offline. With the id, a token is 35 characters: one provider
# allows 100 characters of callback URL.
_CURSOR_MAC_BYTES = 12
_KEPT_OPEN: Final = 1024
"""Each webhook needs its target's secret, and to decrypt it takes as long as to sign with it."""


class Keyring:
    """Keys for each use, derived from one secret, so that a leak of one says nothing of the others.

    Args:
        secret: `SMS_GATEWAY_SECRET_KEY`, at least 32 random bytes in any encoding.
        other: `SMS_GATEWAY_OTHER_SECRET_KEY`, while one is changed for the other: what was sealed with it is read, and
            its callback URLs are genuine. Idempotency keys and cursors know only `secret`.
    """

    def __init__(self, secret: str, other: str | None = None) -> None:
        secrets_read = [secret] if other is None else [secret, other]
        boxes = [Fernet(base64.urlsafe_b64encode(_derived(each, "webhook secrets"))) for each in secrets_read]
        self._box = MultiFernet(boxes)
        self._body_hmac = hmac.new(_derived(secret, "idempotency bodies"), digestmod=hashlib.sha256)
        self._token_keys = [_derived(each, "callback tokens") for each in secrets_read]
        self._cursor_key = _derived(secret, "cursors")
        self._decrypted = lru_cache(_KEPT_OPEN)(self._box.decrypt)

    def seal(self, text: str) -> bytes:
        """`text`, encrypted and authenticated."""
        return self._box.encrypt(text.encode())

    def open(self, sealed: bytes) -> str | None:
        """What was sealed; None where it was sealed with another secret key."""
        try:
            return self._decrypted(sealed).decode()
        except InvalidToken:
            return None

    def body_hmac(self, body: bytes) -> bytes:
        """A keyed hash: a plain one would let the code in a purged OTP be guessed from its hash."""
        keyed = self._body_hmac.copy()  # cheaper than to begin anew: each send needs one
        keyed.update(body)
        return keyed.digest()

    def cursor_proof(self, what: bytes) -> bytes:
        """12 bytes that prove a cursor to be ours."""
        return hmac.digest(self._cursor_key, what, hashlib.sha256)[:_CURSOR_MAC_BYTES]

    def attempt_token(self, account: str, attempt_id: UUID) -> str:
        """The last part of the callback URL of one attempt: 35 URL-safe characters."""
        proof = _proof(self._token_keys[0], account, attempt_id.bytes)
        return base64.urlsafe_b64encode(attempt_id.bytes + proof).decode().rstrip("=")

    def account_token(self, account: str) -> str:
        """The last part of the callback URL of a whole account: 14 URL-safe characters."""
        return base64.urlsafe_b64encode(_proof(self._token_keys[0], account, b"")).decode().rstrip("=")

    def read_token(self, account: str, token: str) -> UUID | None:
        """The attempt that a token names, None where it names the whole account.

        Raises:
            ValueError: we did not make this token for this account.
        """
        try:
            raw = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True)
        except (binascii.Error, ValueError) as error:
            raise ValueError("not a token") from error
        attempt, proof = raw[:-_TOKEN_MAC_BYTES], raw[-_TOKEN_MAC_BYTES:]
        genuine = any(hmac.compare_digest(proof, _proof(key, account, attempt)) for key in self._token_keys)
        if len(attempt) not in {0, 16} or not genuine:
            raise ValueError("not a token of ours")
        return UUID(bytes=attempt) if attempt else None


def _derived(secret: str, use: str) -> bytes:
    return hmac.digest(secret.encode(), use.encode(), hashlib.sha256)


def _proof(key: bytes, account: str, attempt: bytes) -> bytes:
    return hmac.digest(key, account.encode() + b"\0" + attempt, hashlib.sha256)[:_TOKEN_MAC_BYTES]


def new_webhook_secret() -> str:
    """A signing secret as Standard Webhooks writes it: 256 random bits."""
    return "whsec_" + base64.b64encode(secrets.token_bytes(32)).decode()


def new_api_key() -> str:
    """An API key: 256 random bits."""
    return f"sk_{secrets.token_urlsafe(32)}"


def key_hash(api_key: str) -> bytes:
    """What is stored of an API key. Plain SHA-256: the key is 256 random bits, which nobody can search."""
    return hashlib.sha256(api_key.encode()).digest()
