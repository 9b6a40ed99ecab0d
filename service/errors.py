"""Every error of the gateway, as one tree.

::

    GatewayError
    ├── Problem                  an answer to the caller (RFC 9457): status, code, what to do
    ├── ConfigurationError       the operator must change a setting; said at start or by `sms-gateway check`
    ├── StoreError               PostgreSQL did not answer as it should
    │   ├── StoreOverloaded      nothing was stored; try again later
    │   ├── CommitUnknown        it may have been stored; repeat with the same idempotency key
    │   └── Unstorable           PostgreSQL refused the data itself; nothing was stored
    ├── LeaseLost                this worker may no longer act on the message
    ├── HttpError                an outbound request failed
    │   ├── NotSent              surely nothing reached the other side
    │   ├── MaybeSent            something may have reached it (timeout, reset, cut reply)
    │   └── TargetRefused        the address is one that this service must not call
    └── ReceiptError             a provider's callback cannot be used
        ├── ForgedReceipt        its proof is missing or wrong
        └── UnreadableReceipt    it is genuine but not understood
"""

from __future__ import annotations

from dataclasses import dataclass


class GatewayError(Exception):
    """Root of the tree."""


@dataclass(frozen=True, slots=True)
class FieldError:
    """One bad field of a request. It never holds the offending value."""

    field: str
    code: str
    detail: str


class Problem(GatewayError):
    """A refusal that the caller sees as `application/problem+json` (RFC 9457).

    `detail` says what to do. Nothing of the input is echoed.
    """

    def __init__(
        self,
        status: int,
        code: str,
        detail: str,
        *,
        errors: tuple[FieldError, ...] = (),
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(f"{status} {code}")
        self.status = status
        self.code = code
        self.detail = detail
        self.errors = errors
        self.headers = headers or {}


class ConfigurationError(GatewayError):
    """A setting is missing or wrong. The message names the setting and the remedy."""


class StoreError(GatewayError):
    """PostgreSQL did not answer as it should."""


class StoreOverloaded(StoreError):
    """Nothing was stored: no connection, no space, read-only, or too much is waiting."""


class CommitUnknown(StoreError):
    """The connection broke while a statement ran: it may have been committed or not."""


class Unstorable(StoreError):
    """PostgreSQL refused the data itself: nothing was stored, and repeating it is of no use."""


class LeaseLost(GatewayError):
    """The worker's lease has run out, so another may own the message by now."""


class HttpError(GatewayError):
    """An outbound request failed."""


class NotSent(HttpError):
    """Surely nothing of the request was processed: refused, DNS, TLS, or no free connection."""


class MaybeSent(HttpError):
    """The request may have been processed: read timeout, reset after writing, cut reply."""


class TargetRefused(HttpError):
    """The target's scheme or address is not one that this service calls."""


class ReceiptError(GatewayError):
    """A provider's callback cannot be used."""


class ForgedReceipt(ReceiptError):
    """The proof that the callback comes from the provider is missing or wrong."""


class UnreadableReceipt(ReceiptError):
    """The callback is genuine, but its content is not understood."""
