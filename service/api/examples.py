"""What the OpenAPI document shows besides the schemas: its tags, the parts of paths, what leads where, problems."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

TAGS: Final = {
    "Messages": "Sending a message to one or to many, and where each of them stands.",
    "Routes": "How the providers of each route stand.",
    "Numbers": "What the home location register (HLR) says of a number.",
    "Suppressions": "Numbers that a client does not send to, whichever the provider.",
    "Webhooks": "Where receipts go, what went there, and sending it again. They are signed as Standard Webhooks.",
    "Providers": "Where providers report. Their proof is the URL, and their signature where they have one.",
    "Operators": "Clients, keys, providers and the audit log, for whoever runs the gateway: scope `operator`.",
    "Operations": "Health and metrics. Not for the internet.",
}

_E164: Final = r"^\+[1-9][0-9]{6,14}$"


class PathPart(NamedTuple):
    """A parameter of paths."""

    description: str
    example: str
    pattern: str | None = None


PATH_PARTS: Final = {
    "message_id": PathPart("Of a send's answer.", "msg_0198c0de5f0a7c3e9b1d2f4a6c8e0b13"),
    "batch_id": PathPart("Of a bulk's answer.", "bat_0198c0de5f0a7c3e9b1d2f4a6c8e0b14"),
    "endpoint_id": PathPart("Of `GET /v1/webhooks`.", "whe_0190f6c2a1b47c3d8e5f60718293a4b5"),
    "webhook_id": PathPart("What the header `webhook-id` says.", "whd_0190f6c3b2c57d4e9f60718293a4b5c6"),
    "number": PathPart("In E.164. `+` may be written `%2B`.", "+15555550100", _E164),
    "account": PathPart("A provider of `gateway.yaml`.", "primary"),
    "client": PathPart("Of `GET /v1/admin/clients`.", "shop"),
    "key_id": PathPart("Of `GET /v1/admin/keys`.", "0190f6c2-a1b4-7c3d-8e5f-60718293a4b5"),
    "token": PathPart("Made by the gateway; it names an attempt or the account.", "TOKEN"),
}

# Where what one operation answers names what another one takes: (operation, parameter, place in the answer).
LINKS: Final = {
    "send": (("getMessage", "message_id", "/message_id"), ("cancelMessage", "message_id", "/message_id")),
    "sendBulk": (("getBatch", "batch_id", "/batch_id"),),
    "listWebhookDeliveries": (("replayWebhook", "webhook_id", "/deliveries/0/webhook_id"),),
}


LIMITED: Final = frozenset({"send", "sendBulk", "lookUp"})
"""What `limits` of gateway.yaml, or of the client, bounds in time."""


class Shown(NamedTuple):
    """The example of a problem. `field`: the bad one, where there is one."""

    code: str
    detail: str
    field: str | None = None


_PROBLEMS: Final = {
    400: Shown("not_json", "Send one JSON object in UTF-8, without a byte order mark."),
    401: Shown("unauthorized", "Send your API key in the header `Authorization: Bearer <api key>`."),
    403: Shown("scope_missing", "This API key lacks the scope `send`. Use a key that has it."),
    404: Shown("message_not_found", "This client has no such message. Take the `message_id` of a send's answer."),
    409: Shown("endpoint_disabled", "Its endpoint is disabled. Enable it first."),
    413: Shown("body_too_large", "Send at most 2000000 bytes; split a bulk into smaller ones."),
    415: Shown("not_json_type", "Send JSON with `Content-Type: application/json`."),
    422: Shown("number_missing_plus", "Write the number in E.164, beginning with `+` and the country code.", "to"),
    429: Shown(
        "too_many_at_once",
        "This client has too many requests at once. Wait for their answers, then repeat. Nothing was stored.",
    ),
    503: Shown("overloaded", "Nothing was stored. Repeat the request later."),
}
_OVER_LIMIT: Final = Shown("rate_limited", "Wait as `Retry-After` says, then repeat with the same Idempotency-Key.")
_NOT_ADMIN: Final = Shown("scope_missing", "This API key lacks the scope `admin`. Use a key that has it.")
_NOT_OPERATOR: Final = Shown("scope_missing", "This API key lacks the scope `operator`. Use a key that has it.")
_BAD_CURSOR: Final = Shown(
    "cursor_invalid", "Give `next_cursor` of the page before, with the same filters, or leave it out.", "cursor"
)
_NO_KEY: Final = Shown("key_not_found", "There is no living key of this id. Take a `key_id` of `GET /v1/admin/keys`.")
_OWN: Final[dict[str, dict[int, Shown]]] = {  # of a tag or of an operation
    "Suppressions": {
        403: _NOT_ADMIN,
        404: Shown("suppression_not_found", "This number is not on this client's list."),
        422: _PROBLEMS[422]._replace(field="number"),
    },
    "Webhooks": {
        403: _NOT_ADMIN,
        404: Shown(
            "endpoint_not_found", "This client has no such endpoint. Take an `endpoint_id` of `GET /v1/webhooks`."
        ),
        422: Shown("url_refused", "Use another URL: only http and https are called.", "url"),
    },
    "Providers": {
        403: Shown("forged_callback", "The token or the signature of this callback is not genuine."),
        404: Shown("unknown_account", "There is no such account. Check the callback URL at the provider."),
        413: Shown("body_too_large", "Send at most 65536 bytes; split a bulk into smaller ones."),
        422: Shown("unreadable_callback", "This callback is not understood."),
    },
    "Operators": {
        403: _NOT_OPERATOR,
        404: Shown("provider_not_found", "There is no such provider. Take one of `GET /v1/admin/providers`."),
        409: Shown("client_exists", "There is a client of this name already. Change it, or use another name."),
        422: Shown("invalid_country", "Give ISO 3166-1 alpha-2 codes in capitals: DE, GB, US.", "countries"),
    },
    "updateClient": {
        404: Shown("client_not_found", "There is no such client. Take a name of `GET /v1/admin/clients`.")
    },
    "createClient": {422: Shown("invalid_name", "Give a name of visible characters.", "name")},
    "rotateKey": {404: _NO_KEY, 422: Shown("out_of_range", "Give a number within the documented range.", "overlap_s")},
    "revokeKey": {404: _NO_KEY},
    "pauseProvider": {422: Shown("field_missing", "Add this field.", "reason")},
    "listActs": {422: _BAD_CURSOR},
    "send": {429: _OVER_LIMIT},
    "sendBulk": {429: _OVER_LIMIT, 422: Shown("no_recipients", "Give at least one recipient.", "recipients")},
    "getBatch": {
        404: Shown("batch_not_found", "This client has no such batch. Take the `batch_id` of a bulk's answer.")
    },
    "cancelMessage": {
        409: Shown("not_cancellable", "The message is `sent` already. Only a `queued` one can be cancelled.")
    },
    "listMessages": {422: _BAD_CURSOR},
    "listSuppressions": {422: _BAD_CURSOR},
    "listWebhookDeliveries": {422: _BAD_CURSOR},
    "importSuppressions": {
        400: Shown("not_csv", "Send CSV in UTF-8."),
        415: Shown("not_csv_type", "Send CSV with `Content-Type: text/csv`."),
        422: Shown("no_number_column", "Name the column with the numbers `number` in the first line."),
    },
    "lookUp": {429: _OVER_LIMIT, 422: _PROBLEMS[422]._replace(field="number")},
    "rotateWebhookSecret": {422: Shown("out_of_range", "Give a number within the documented range.", "overlap_s")},
    "replayWebhook": {
        404: Shown("webhook_not_found", "This client has no such webhook. Take the id of the header `webhook-id`.")
    },
    "replayWebhooks": {422: Shown("invalid_range", "Give a time after `from`.", "to")},
    "readyz": {503: Shown("database_unavailable", "PostgreSQL does not answer within a second.")},
}


def problem(operation: dict[str, Any], status: int) -> Shown:
    """The example of what the operation answers with this status."""
    own = (_OWN.get(name, {}).get(status) for name in (operation["operationId"], *operation["tags"]))
    return next((shown for shown in own if shown), _PROBLEMS[status])
