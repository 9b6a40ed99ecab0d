-- The first schema. Ids are UUIDv7: sortable by time, so that primary keys grow at their right edge and old rows go by
-- partition (docs/retention.md). Hot tables have no foreign keys (a check per row on the way of every message) and as few
-- indexes as their readers allow.

-- Who calls. webhook_secret is encrypted with a key derived from SMS_GATEWAY_SECRET_KEY.
CREATE TABLE clients (
    id                      uuid PRIMARY KEY,
    name                    text NOT NULL UNIQUE,
    webhook_secret          bytea NOT NULL,
    require_idempotency_key boolean NOT NULL DEFAULT false,
    senders                 text[],                        -- NULL: every sender of gateway.yaml
    countries               text[],                        -- ISO 3166; NULL: every country
    limits                  jsonb NOT NULL DEFAULT '{}',   -- overrides of the defaults in gateway.yaml
    special_rates           boolean NOT NULL DEFAULT false, -- may send to premium-rate and like numbers
    created_at              timestamptz NOT NULL DEFAULT now()
);

-- A key is 256 random bits, so a plain SHA-256 of it cannot be searched; a slow hash would buy nothing.
CREATE TABLE api_keys (
    id         uuid PRIMARY KEY,
    client_id  uuid NOT NULL REFERENCES clients,
    key_hash   bytea NOT NULL UNIQUE,
    hint       text NOT NULL,                              -- the first characters, to tell keys apart
    scopes     text[] NOT NULL,
    senders    text[],                                     -- NULL: every one of its client; countries too
    countries  text[],
    lasts      interval,                                   -- what it was made for, and its successors are; NULL: for good
    expires_at timestamptz,
    created_at timestamptz NOT NULL DEFAULT now(),
    last_used_at timestamptz,                              -- to the minute
    revoked_at timestamptz
);

-- Providers that operators took out of service for a while. Workers read it once a second.
CREATE TABLE provider_pauses (
    provider  text PRIMARY KEY,
    reason    text NOT NULL,
    paused_by text NOT NULL,
    paused_at timestamptz NOT NULL DEFAULT now()
);

-- What operators did. Written with what they did, in one transaction, and never changed. No secrets.
CREATE TABLE audit_log (
    id         uuid PRIMARY KEY,
    at         timestamptz NOT NULL DEFAULT now(),
    actor      text NOT NULL,                              -- key:..., token:..., cli:...
    action     text NOT NULL,
    object     text NOT NULL,
    details    jsonb NOT NULL,
    request_id text
);
CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '% is only added to', TG_TABLE_NAME;
END
$$;
CREATE TRIGGER audit_log_is_only_added_to BEFORE UPDATE OR DELETE OR TRUNCATE ON audit_log
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();

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
) PARTITION BY RANGE (id);

CREATE INDEX messages_queue ON messages (traffic, client_id, due_at)
    WHERE due_at IS NOT NULL AND status IN ('queued', 'sending');
CREATE INDEX messages_claimed ON messages (worker_id) WHERE worker_id IS NOT NULL;
CREATE INDEX messages_awaiting_receipt ON messages (due_at) WHERE status = 'sent';
CREATE INDEX messages_of_client ON messages (client_id, id);
CREATE INDEX messages_of_batch ON messages (batch_id) WHERE batch_id IS NOT NULL;
-- For lists: what was sent to this number, and what has this reference? Without them such a question reads a whole window.
CREATE INDEX messages_to_recipient ON messages (recipient, id);
CREATE INDEX messages_of_reference ON messages (reference, id) WHERE reference IS NOT NULL;
-- For the purge of texts. Without `body` in it, so that the purge is a HOT update.
CREATE INDEX messages_ended ON messages (ended_at) WHERE ended_at IS NOT NULL;

-- One row a call to a provider, written before the call. A repeat with the same idempotency key is the same attempt
-- (calls counts it), because its body, callback URL included, must be the same. open: it may still be delivered.
-- The id begins like its message's, so that the attempts of a message lie together, in the partition of its period.
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
    receipt_key         text,                              -- the same, where receipts name nothing else
    started_at          timestamptz NOT NULL DEFAULT now(),
    ended_at            timestamptz
) PARTITION BY RANGE (id);

-- For accounts whose receipts come to one URL and name only the provider's id. The others' attempts stay out of it: the ids
-- come in no order, so each would touch a page of its own, and no outcome would be a HOT update.
CREATE INDEX attempts_by_receipt_key ON attempts (provider, receipt_key) WHERE receipt_key IS NOT NULL;

-- One row for each thing that a provider said of an attempt: duplicates collide, so their number is bounded.
CREATE TABLE receipts (
    attempt_id    uuid NOT NULL,
    status        text NOT NULL,
    error_code    integer,
    provider_code text,
    occurred_at   timestamptz,
    received_at   timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (attempt_id, status)
) PARTITION BY RANGE (attempt_id);

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
-- Not BRIN: what the space of old keys is filled with again, and what was stored since the last vacuum, it reads each time.
CREATE INDEX idempotency_keys_expiry ON idempotency_keys (expires_at);

CREATE TABLE batches (
    id         uuid PRIMARY KEY,
    client_id  uuid NOT NULL,
    accepted   integer NOT NULL,
    rejected   integer NOT NULL,
    answer     bytea NOT NULL,                             -- the reply as sent, for replays
    created_at timestamptz NOT NULL DEFAULT now()
) PARTITION BY RANGE (id);

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
) PARTITION BY RANGE (id);
CREATE INDEX webhook_deliveries_queue ON webhook_deliveries (target, due_at) WHERE due_at IS NOT NULL;
CREATE INDEX webhook_deliveries_claimed ON webhook_deliveries (worker_id) WHERE worker_id IS NOT NULL;
CREATE INDEX webhook_deliveries_of_endpoint ON webhook_deliveries (endpoint_id, id) WHERE endpoint_id IS NOT NULL;

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

-- The least and the greatest id that an attempt of a message can have: it shares the first 96 bits.
CREATE FUNCTION first_attempt(message_id uuid) RETURNS uuid LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT (left(message_id::text, 28) || '00000000')::uuid
$$;
CREATE FUNCTION last_attempt(message_id uuid) RETURNS uuid LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT (left(message_id::text, 28) || 'ffffffff')::uuid
$$;

-- A UUID below every id of that time and above every id before it. Times that ids do not reach are brought in.
CREATE FUNCTION smallest_at(at timestamptz) RETURNS uuid LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT (lpad(to_hex(floor(least(greatest(extract(epoch FROM at) * 1000, 0), 281474976710655))::bigint), 12, '0') || repeat('0', 20))::uuid
$$;

-- Ids of a time that has no partition (a clock is far off) find their place here.
CREATE TABLE messages_default PARTITION OF messages DEFAULT WITH (fillfactor = 85);
CREATE TABLE attempts_default PARTITION OF attempts DEFAULT WITH (fillfactor = 85);
CREATE TABLE receipts_default PARTITION OF receipts DEFAULT;
CREATE TABLE webhook_deliveries_default PARTITION OF webhook_deliveries DEFAULT WITH (fillfactor = 85);
CREATE TABLE batches_default PARTITION OF batches DEFAULT;

-- Makes the partition of a table for a month (its first day; UTC) and moves into it what had to go to the default partition.
-- Made apart and then attached, because that locks nothing but the default partition against others' statements. Where too
-- much lies there to be moved within a moment, it stays (Retention.forget_strays removes it) and the partition begins in a minute.
CREATE FUNCTION make_partition(parent text, month date) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    partition text := parent || to_char(month, '_YYYY_MM');
    key text := CASE parent WHEN 'receipts' THEN 'attempt_id' ELSE 'id' END;
    fill int := CASE WHEN parent IN ('receipts', 'batches') THEN 100 ELSE 85 END;
    low uuid := smallest_at(month::timestamp AT TIME ZONE 'UTC');
    high uuid := smallest_at((month + interval '1 month') AT TIME ZONE 'UTC');
    astray int;
BEGIN
    EXECUTE format('CREATE TABLE %I (LIKE %I INCLUDING ALL) WITH (fillfactor = %s)', partition, parent, fill);
    EXECUTE format('LOCK TABLE %I IN ACCESS EXCLUSIVE MODE', parent || '_default');
    EXECUTE format('SELECT count(*) FROM (SELECT FROM %I WHERE %I >= %L AND %2$I < %4$L LIMIT 10001) AS found',
                   parent || '_default', key, low, high) INTO astray;
    IF astray > 10000 THEN
        low := greatest(low, smallest_at(now() + interval '1 minute'));
    END IF;
    EXECUTE format('WITH moved AS (DELETE FROM %I WHERE %I >= %L AND %2$I < %4$L RETURNING *) '
                   'INSERT INTO %5$I SELECT * FROM moved', parent || '_default', key, low, high, partition);
    EXECUTE format('ALTER TABLE %I ATTACH PARTITION %I FOR VALUES FROM (%L) TO (%L)', parent, partition, low, high);
END
$$;

-- This month's and the next one's. Workers make those that follow.
SELECT make_partition(parent, month::date)
FROM unnest(ARRAY['messages', 'attempts', 'receipts', 'webhook_deliveries', 'batches']) AS t (parent)
CROSS JOIN generate_series(date_trunc('month', now() AT TIME ZONE 'UTC'),
                           date_trunc('month', now() AT TIME ZONE 'UTC') + interval '1 month', interval '1 month') AS m (month);

-- The text of every message of that traffic which ended before `ended_before` has been purged.
CREATE TABLE text_purges (
    traffic      text PRIMARY KEY,
    ended_before timestamptz NOT NULL
);

-- What calls and receipts say of the providers, in buckets of 5 s, and where each stands by it. What a crash loses here is
-- learnt again in seconds, so it is not written to WAL.
CREATE UNLOGGED TABLE health_samples (
    provider    text NOT NULL,
    country     text NOT NULL,
    traffic     text NOT NULL,
    bucket_at   timestamptz NOT NULL,
    calls       integer NOT NULL,
    failures    integer NOT NULL,
    slow        integer NOT NULL,
    delivered   integer NOT NULL,
    undelivered integer NOT NULL,
    openings    integer NOT NULL,                          -- of breakers
    PRIMARY KEY (provider, country, traffic, bucket_at)
) WITH (fillfactor = 50);

CREATE INDEX health_samples_by_time ON health_samples (bucket_at);

CREATE UNLOGGED TABLE health_standings (
    provider  text NOT NULL,
    country   text NOT NULL,
    traffic   text NOT NULL,
    condition text NOT NULL CHECK (condition IN ('healthy', 'failing', 'probing', 'recovering')),
    cause     text,                                        -- NULL: healthy
    strikes   integer NOT NULL,
    since     timestamptz NOT NULL,
    PRIMARY KEY (provider, country, traffic)
);
