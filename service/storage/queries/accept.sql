-- name: insert_messages
-- Stores messages and their idempotency keys, all or nothing, and returns those that were stored.
-- A message whose key is taken is left out: it lost to an earlier one (read it with find_keys). An expired key is free.
-- $1 the messages, each a JSON array: its columns, its key (null: none) and the body's HMAC in hex; $2 how long keys are
-- kept. (One JSON, because an array for each column costs asyncpg four times as much, and PostgreSQL only a little less.)
WITH input AS (
    SELECT (m->>0)::uuid AS id, (m->>1)::uuid AS client_id, m->>2 AS recipient, m->>3 AS sender, m->>4 AS body,
           m->>5 AS traffic, m->>6 AS country, m->>7 AS encoding, (m->>8)::smallint AS segments, m->>9 AS reference,
           m->>10 AS callback_url, (m->>11)::timestamptz AS send_at, (m->>12)::float8 AS validity_s,
           m->>13 AS traceparent, m->>14 AS key, decode(m->>15, 'hex') AS body_hmac
    FROM jsonb_array_elements($1::jsonb) AS i (m)
), claimed AS (
    INSERT INTO idempotency_keys AS k (client_id, endpoint, key, body_hmac, subject_id, expires_at)
    SELECT client_id, 'send', key, body_hmac, id, now() + $2::interval
    FROM input
    WHERE key IS NOT NULL
    ORDER BY client_id, key
    ON CONFLICT (client_id, endpoint, key) DO UPDATE
    SET body_hmac = EXCLUDED.body_hmac, subject_id = EXCLUDED.subject_id, expires_at = EXCLUDED.expires_at
    WHERE k.expires_at <= now()
    RETURNING k.subject_id
)
INSERT INTO messages (id, client_id, recipient, sender, body, traffic, country, encoding, segments, reference,
                      callback_url, traceparent, send_at, due_at, expires_at)
SELECT id, client_id, recipient, sender, body, traffic, country, encoding, segments, reference, callback_url,
       traceparent, greatest(send_at, now()), greatest(send_at, now()),
       greatest(send_at, now()) + make_interval(secs => validity_s)
FROM input
WHERE key IS NULL OR id IN (SELECT subject_id FROM claimed)
RETURNING id, created_at

-- name: find_keys
-- What living keys answered. $1 client ids, $2 endpoints, $3 keys.
SELECT k.client_id, k.endpoint, k.key, k.body_hmac, k.subject_id
FROM unnest($1::uuid[], $2::text[], $3::text[]) AS i (client_id, endpoint, key)
JOIN idempotency_keys AS k USING (client_id, endpoint, key)
WHERE k.expires_at > now()

-- name: claim_key
-- Takes one key for a bulk; returns nothing where it is taken.
INSERT INTO idempotency_keys AS k (client_id, endpoint, key, body_hmac, subject_id, expires_at)
VALUES ($1, $2, $3, $4, $5, now() + $6::interval)
ON CONFLICT (client_id, endpoint, key) DO UPDATE
SET body_hmac = EXCLUDED.body_hmac, subject_id = EXCLUDED.subject_id, expires_at = EXCLUDED.expires_at
WHERE k.expires_at <= now()
RETURNING k.subject_id

-- name: insert_batch
INSERT INTO batches (id, client_id, accepted, rejected, answer) VALUES ($1, $2, $3, $4, $5)

-- name: batch_answer
SELECT answer FROM batches WHERE id = $1 AND client_id = $2

-- name: batch
SELECT id, accepted, rejected, created_at FROM batches WHERE id = $1 AND client_id = $2

-- name: batch_counts
SELECT status, count(*) AS messages FROM messages WHERE batch_id = $1 GROUP BY status

-- name: message
-- One message of a client, with everything a caller may know of it. (A join, because the plan of `id = $1` differs from
-- partition to partition, so PostgreSQL would plan it each time rather than keep one plan that finds the partition.)
SELECT id, client_id, batch_id, recipient, sender, traffic, country, encoding, segments, reference, status, reason,
       error_code, send_at, expires_at, created_at, sent_at, ended_at
FROM unnest(ARRAY[$1::uuid]) AS i (id)
JOIN messages USING (id)
WHERE client_id = $2

-- name: replayed
-- What messages answered when they were accepted. $1 ids, $2 the client of each.
SELECT id, client_id, recipient, sender, traffic, segments, encoding, reference, created_at
FROM unnest($1::uuid[], $2::uuid[]) AS i (id, client_id)
JOIN messages USING (id, client_id)

-- name: cancel
-- Takes a message back that nobody has claimed; runs under lock_messages. $3 the traffic whose text goes at once.
UPDATE messages
SET status = 'cancelled', reason = NULL, due_at = NULL, ended_at = now(),
    body = CASE WHEN traffic = ANY ($3::text[]) THEN NULL ELSE body END
WHERE id = $1 AND client_id = $2 AND status = 'queued'
RETURNING id

-- name: attempts
SELECT id, provider, calls, open, outcome, reason, code, provider_message_id, started_at, ended_at
FROM unnest(ARRAY[$1::uuid]) AS i (message_id)
JOIN attempts USING (message_id)
WHERE id BETWEEN first_attempt(i.message_id) AND last_attempt(i.message_id)
ORDER BY started_at, id

-- name: receipts
SELECT a.provider, r.status, r.error_code, r.provider_code, r.occurred_at, r.received_at
FROM unnest(ARRAY[$1::uuid]) AS i (message_id)
JOIN attempts AS a USING (message_id)
JOIN receipts AS r ON r.attempt_id = a.id
WHERE a.id BETWEEN first_attempt(i.message_id) AND last_attempt(i.message_id)
ORDER BY r.received_at, r.status
