-- The first schema. Ids are UUIDv7: sortable by time, so that primary keys grow at their right edge and old rows can
-- later be dropped by partition. Hot tables have no foreign keys (a check per row on the way of every message) and as
-- few indexes as their readers allow.

-- Who calls. webhook_secret is encrypted with a key derived from SMS_GATEWAY_SECRET_KEY.
CREATE TABLE clients (
    id                      uuid PRIMARY KEY,
    name                    text NOT NULL UNIQUE,
    webhook_secret          bytea NOT NULL,
    require_idempotency_key boolean NOT NULL DEFAULT false,
    senders                 text[],                        -- NULL: every sender of gateway.yaml
    countries               text[],                        -- ISO 3166; NULL: every country
    limits                  jsonb NOT NULL DEFAULT '{}',   -- overrides of the defaults in gateway.yaml
    created_at              timestamptz NOT NULL DEFAULT now()
);

-- A key is 256 random bits, so a plain SHA-256 of it cannot be searched; a slow hash would buy nothing.
CREATE TABLE api_keys (
    id         uuid PRIMARY KEY,
    client_id  uuid NOT NULL REFERENCES clients,
    key_hash   bytea NOT NULL UNIQUE,
    hint       text NOT NULL,                              -- the first characters, to tell keys apart
    scopes     text[] NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    revoked_at timestamptz
);

-- The truth and the queue. due_at is the next time somebody must look at the message:
--   queued            when it may be sent
--   sending, parked   when the unknown submission is repeated, or given up
--   sending, claimed  NULL: worker_id has it
--   sent              when we stop waiting for a receipt
--   ended             NULL
CREATE TABLE messages (
    id           uuid PRIMARY KEY,
    client_id    uuid NOT NULL,
    batch_id     uuid,
    recipient    text NOT NULL,
    sender       text NOT NULL,
    body         text,                                     -- NULL once purged
    traffic      text NOT NULL CHECK (traffic IN ('otp', 'transactional', 'marketing')),
    country      text NOT NULL,
    encoding     text NOT NULL,
    segments     smallint NOT NULL,
    reference    text,
    callback_url text,
    status       text NOT NULL DEFAULT 'queued'
                 CHECK (status IN ('queued', 'sending', 'sent', 'delivered', 'undelivered', 'failed', 'cancelled')),
    reason       text,
    error_code   integer,
    worker_id    uuid,
    due_at       timestamptz,
    send_at      timestamptz NOT NULL,
    expires_at   timestamptz NOT NULL,
    created_at   timestamptz NOT NULL DEFAULT now(),
    sent_at      timestamptz,
    ended_at     timestamptz
) WITH (fillfactor = 85);

CREATE INDEX messages_queue ON messages (traffic, client_id, due_at)
    WHERE due_at IS NOT NULL AND status IN ('queued', 'sending');
CREATE INDEX messages_claimed ON messages (worker_id) WHERE worker_id IS NOT NULL;
CREATE INDEX messages_awaiting_receipt ON messages (due_at) WHERE status = 'sent';
CREATE INDEX messages_of_client ON messages (client_id, id);
CREATE INDEX messages_of_batch ON messages (batch_id) WHERE batch_id IS NOT NULL;

-- One row a call to a provider, written before the call. A repeat with the same idempotency key is the same attempt
-- (calls counts it), because its body, callback URL included, must be the same. open: it may still be delivered.
CREATE TABLE attempts (
    id                  uuid PRIMARY KEY,
    message_id          uuid NOT NULL,
    provider            text NOT NULL,
    calls               integer NOT NULL DEFAULT 1,
    open                boolean NOT NULL DEFAULT true,
    outcome             text,                              -- NULL while the call is on its way
    reason              text,
    code                text,                              -- the provider's own
    provider_message_id text,
    started_at          timestamptz NOT NULL DEFAULT now(),
    ended_at            timestamptz
) WITH (fillfactor = 85);

CREATE INDEX attempts_of_message ON attempts (message_id);
-- For accounts whose receipts come to one URL and name only the provider's id.
CREATE INDEX attempts_by_provider_id ON attempts (provider, provider_message_id) WHERE provider_message_id IS NOT NULL;

-- One row for each thing that a provider said of an attempt: duplicates collide, so their number is bounded.
CREATE TABLE receipts (
    attempt_id    uuid NOT NULL,
    status        text NOT NULL,
    error_code    integer,
    provider_code text,
    occurred_at   timestamptz,
    received_at   timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (attempt_id, status)
);

-- Receipts that name a provider's id which we do not know (yet): matched later, dropped after a while.
CREATE TABLE orphan_receipts (
    provider            text NOT NULL,
    provider_message_id text NOT NULL,
    status              text NOT NULL,
    error_code          integer,
    provider_code       text,
    occurred_at         timestamptz,
    received_at         timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (provider, provider_message_id, status)
);

-- What a key answered: the message or batch that it made. body_hmac is keyed, because a plain hash of a short body
-- would let a purged OTP be guessed.
CREATE TABLE idempotency_keys (
    client_id  uuid NOT NULL,
    endpoint   text NOT NULL,
    key        text NOT NULL,
    body_hmac  bytea NOT NULL,
    subject_id uuid NOT NULL,
    expires_at timestamptz NOT NULL,
    PRIMARY KEY (client_id, endpoint, key)
);
CREATE INDEX idempotency_keys_expiry ON idempotency_keys USING brin (expires_at);

CREATE TABLE batches (
    id         uuid PRIMARY KEY,
    client_id  uuid NOT NULL,
    accepted   integer NOT NULL,
    rejected   integer NOT NULL,
    answer     bytea NOT NULL,                             -- the reply as sent, for replays
    created_at timestamptz NOT NULL DEFAULT now()
);

-- Registered by clients. The previous secret signs too until it ends.
CREATE TABLE webhook_endpoints (
    id                    uuid PRIMARY KEY,
    client_id             uuid NOT NULL REFERENCES clients,
    url                   text NOT NULL,
    secret                bytea NOT NULL,
    previous_secret       bytea,
    previous_secret_until timestamptz,
    events                text[],                          -- NULL: all
    disabled_at           timestamptz,
    disabled_reason       text,
    created_at            timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX webhook_endpoints_of_client ON webhook_endpoints (client_id);

-- The outbox: written in the statement that ends a message. target isolates endpoints from each other: the id of a
-- registered endpoint, or the client and origin of a callback_url.
CREATE TABLE webhook_deliveries (
    id           uuid PRIMARY KEY,                         -- the webhook-id, the same on every retry and replay
    client_id    uuid NOT NULL,
    message_id   uuid NOT NULL,
    endpoint_id  uuid,                                     -- NULL: the message's callback_url
    target       text NOT NULL,
    status       text NOT NULL,                            -- the event: what the message became
    reason       text,
    error_code   integer,
    event_at     timestamptz NOT NULL,
    state        text NOT NULL DEFAULT 'pending' CHECK (state IN ('pending', 'delivered', 'dead')),
    attempts     integer NOT NULL DEFAULT 0,
    due_at       timestamptz,
    worker_id    uuid,
    last_status  smallint,
    last_error   text,
    created_at   timestamptz NOT NULL DEFAULT now(),
    ended_at     timestamptz
) WITH (fillfactor = 85);
CREATE INDEX webhook_deliveries_queue ON webhook_deliveries (target, due_at) WHERE due_at IS NOT NULL;
CREATE INDEX webhook_deliveries_claimed ON webhook_deliveries (worker_id) WHERE worker_id IS NOT NULL;
CREATE INDEX webhook_deliveries_of_endpoint ON webhook_deliveries (endpoint_id, id) WHERE endpoint_id IS NOT NULL;
CREATE INDEX webhook_deliveries_of_message ON webhook_deliveries (message_id);

-- A target that fails is left alone until blocked_until, so that it never heads the queue.
CREATE TABLE webhook_targets (
    target        text PRIMARY KEY,
    failures      integer NOT NULL DEFAULT 0,              -- in a row
    blocked_until timestamptz NOT NULL
);

CREATE TABLE hlr_results (
    number     text PRIMARY KEY,
    status     text NOT NULL,
    mcc        text,
    mnc        text,
    network    text,
    line_type  text,
    ported     boolean,
    roaming    boolean,
    error_code integer,
    source     text NOT NULL,
    checked_at timestamptz NOT NULL,
    expires_at timestamptz NOT NULL
);

-- Numbers that must not be sent to. client_id NULL: by nobody.
CREATE TABLE suppressions (
    number     text NOT NULL,
    client_id  uuid,
    reason     text NOT NULL,
    source     text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    UNIQUE NULLS NOT DISTINCT (number, client_id)
);
CREATE INDEX suppressions_of_client ON suppressions (client_id, number);

-- GCRA: the time at which the next slot is free. Losing it in a crash costs one burst, so it is not written to WAL.
CREATE UNLOGGED TABLE pacing (
    key text PRIMARY KEY,
    tat timestamptz NOT NULL
) WITH (fillfactor = 50);

-- A worker's lease. What it has claimed is anybody's once this has run out.
CREATE TABLE workers (
    id         uuid PRIMARY KEY,
    expires_at timestamptz NOT NULL
);

-- A UUIDv7 (RFC 9562), made here because PostgreSQL has its own only from 18 on.
CREATE FUNCTION new_id() RETURNS uuid LANGUAGE sql VOLATILE PARALLEL SAFE AS $$
    SELECT (lpad(to_hex((extract(epoch FROM clock_timestamp()) * 1000)::bigint), 12, '0')
            || '7' || substr(r, 14, 3) || substr(r, 17))::uuid
    FROM replace(gen_random_uuid()::text, '-', '') AS r
$$;

-- Which webhooks wait for each other: those of one registered endpoint, or of one client to one origin.
CREATE FUNCTION webhook_target(client_id uuid, callback_url text, endpoint_id uuid) RETURNS text
    LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT coalesce(endpoint_id::text, client_id || ' ' || lower(coalesce(substring(callback_url FROM '^[^:]+://[^/?#]+'), '')))
$$;
