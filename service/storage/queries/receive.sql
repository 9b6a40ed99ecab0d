-- name: lock_messages_of_attempts
-- As `lock_messages` (of deliver.sql), for whoever knows attempts.
SELECT m.id
FROM (SELECT DISTINCT a.message_id AS id FROM unnest($1::uuid[]) AS i (id) JOIN attempts AS a USING (id)) AS i
JOIN messages AS m USING (id)
ORDER BY m.id
FOR NO KEY UPDATE OF m

-- name: apply_receipts
-- Records receipts, closes their attempts and moves their messages on; runs under lock_messages.
-- A receipt already on record changes nothing. `delivered` from any attempt wins; otherwise a message ends when no
-- attempt of it is open. An ended message is left alone, except that a late `delivered` corrects our own guesses.
-- $1..$7 the receipts (no pair of attempt and status twice), $8 how long a receipt is waited for after expiry, $9 the
-- traffic whose text goes at the end.
WITH input AS (
    SELECT *
    FROM unnest($1::uuid[], $2::text[], $3::int[], $4::text[], $5::timestamptz[], $6::text[], $7::text[])
      AS i (attempt_id, status, error_code, provider_code, occurred_at, reason, provider_message_id)
), fresh AS (
    INSERT INTO receipts AS r (attempt_id, status, error_code, provider_code, occurred_at)
    SELECT i.attempt_id, i.status, i.error_code, i.provider_code, i.occurred_at
    FROM input AS i
    JOIN attempts AS a ON a.id = i.attempt_id
    ON CONFLICT DO NOTHING
    RETURNING r.attempt_id, r.status
), news AS (
    SELECT i.*, a.message_id, a.open
    FROM fresh
    JOIN input AS i USING (attempt_id, status)
    JOIN attempts AS a ON a.id = i.attempt_id
    WHERE i.status <> 'unknown'
), closed AS (
    -- Any receipt proves that the provider had accepted.
    UPDATE attempts AS a
    SET outcome = CASE WHEN a.outcome IS NULL OR a.outcome = 'unknown' THEN 'accepted' ELSE a.outcome END,
        ended_at = coalesce(a.ended_at, now()),
        provider_message_id = coalesce(a.provider_message_id, n.provider_message_id),
        open = a.open AND n.only_sent
    FROM (
        SELECT attempt_id, bool_and(status = 'sent') AS only_sent, min(provider_message_id) AS provider_message_id
        FROM news
        GROUP BY attempt_id
    ) AS n
    WHERE a.id = n.attempt_id
), verdicts AS (
    -- Of several receipts of one message, the one that moves it furthest.
    SELECT DISTINCT ON (n.message_id) n.*
    FROM (
        SELECT news.*,
               news.status <> 'delivered' AND news.open AND NOT EXISTS (
                   SELECT FROM attempts AS o
                   WHERE o.message_id = news.message_id AND o.open
                     AND o.id BETWEEN first_attempt(news.message_id) AND last_attempt(news.message_id)
                     AND o.id NOT IN (SELECT attempt_id FROM news WHERE status <> 'sent')
               ) AS was_last
        FROM news
    ) AS n
    ORDER BY n.message_id,
             CASE WHEN n.status = 'delivered' THEN 1 WHEN n.status = 'sent' THEN 3 WHEN n.was_last THEN 2 ELSE 4 END,
             n.status DESC
), moved AS (
    UPDATE messages AS m
    SET status = v.status,
        reason = CASE WHEN v.status IN ('undelivered', 'failed') THEN v.reason END,
        error_code = CASE WHEN v.status <> 'sent' THEN v.error_code END,
        due_at = CASE WHEN v.status = 'sent' THEN m.expires_at + $8::interval END,
        worker_id = NULL,
        sent_at = coalesce(m.sent_at, now()),
        ended_at = CASE WHEN v.status <> 'sent' THEN now() END,
        body = CASE WHEN v.status <> 'sent' AND m.traffic = ANY ($9::text[]) THEN NULL ELSE m.body END
    FROM verdicts AS v
    WHERE m.id = v.message_id
      AND CASE v.status
              WHEN 'delivered' THEN m.status IN ('queued', 'sending', 'sent')
                                    OR m.status IN ('undelivered', 'failed')
                                       AND m.reason IN ('no_receipt', 'submit_unknown')
              WHEN 'sent' THEN m.status = 'sending' AND m.worker_id IS NULL
              ELSE v.was_last AND m.status IN ('sending', 'sent')
          END
    RETURNING m.id, m.client_id, m.callback_url, m.status, m.reason, m.error_code, m.traffic, m.ended_at,
              coalesce(v.occurred_at, now()) AS event_at, v.attempt_id
), outbox AS (
    INSERT INTO webhook_deliveries (id, client_id, message_id, endpoint_id, target, status, reason, error_code,
                                    event_at, due_at)
    SELECT new_id(), m.client_id, m.id, e.id, webhook_target(m.client_id, m.callback_url, e.id), m.status, m.reason,
           m.error_code, m.event_at, now()
    FROM moved AS m
    LEFT JOIN webhook_endpoints AS e
      ON m.callback_url IS NULL AND e.client_id = m.client_id AND e.disabled_at IS NULL
     AND (e.events IS NULL OR 'message.' || m.status = ANY (e.events))
    WHERE m.ended_at IS NOT NULL AND (m.callback_url IS NOT NULL OR e.id IS NOT NULL)
)
SELECT f.attempt_id, f.status, m.recipient, moved.status AS became, m.country, m.traffic, m.traceparent,
       extract(epoch FROM now() - a.started_at)::float8 AS age_s
FROM fresh AS f
JOIN attempts AS a ON a.id = f.attempt_id
JOIN messages AS m ON m.id = a.message_id
LEFT JOIN moved ON (moved.attempt_id, moved.status) = (f.attempt_id, f.status)  -- of several, the one that moved it

-- name: attempts_by_receipt_key
-- $1 providers, $2 the providers' message ids.
SELECT a.id, a.provider, a.receipt_key
FROM unnest($1::text[], $2::text[]) AS i (provider, receipt_key)
JOIN attempts AS a USING (provider, receipt_key)

-- name: keep_orphans
INSERT INTO orphan_receipts (provider, provider_message_id, status, error_code, provider_code, occurred_at)
SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::int[], $5::text[], $6::timestamptz[])
ON CONFLICT DO NOTHING

-- name: trim_orphans
-- Of each of the providers $1, drops the orphans that came before its newest $2. What others are dropping is left to them.
WITH surplus AS MATERIALIZED (
    SELECT o.*
    FROM unnest($1::text[]) AS p (provider)
    CROSS JOIN LATERAL (
        SELECT provider, provider_message_id, status
        FROM orphan_receipts
        WHERE provider = p.provider
        ORDER BY received_at DESC
        OFFSET $2
    ) AS o
), locked AS MATERIALIZED (
    SELECT o.provider, o.provider_message_id, o.status
    FROM orphan_receipts AS o
    JOIN surplus USING (provider, provider_message_id, status)
    FOR UPDATE OF o SKIP LOCKED
)
DELETE FROM orphan_receipts AS o
USING locked AS l
WHERE (o.provider, o.provider_message_id, o.status) = (l.provider, l.provider_message_id, l.status)

-- name: orphans
-- The next orphans behind one ($1, $2, $3), with their attempts where these have become known.
SELECT a.id AS attempt_id, o.provider, o.provider_message_id, o.status, o.error_code, o.provider_code, o.occurred_at
FROM (
    SELECT *
    FROM orphan_receipts
    WHERE (provider, provider_message_id, status) > ($1, $2, $3)
    ORDER BY provider, provider_message_id, status
    LIMIT 1000
) AS o
LEFT JOIN LATERAL (  -- a mere join may begin with all attempts, where its plan was made before there were any
    SELECT id FROM attempts WHERE provider = o.provider AND receipt_key = o.provider_message_id OFFSET 0
) AS a ON true
ORDER BY o.provider, o.provider_message_id, o.status

-- name: forget_orphans
DELETE FROM orphan_receipts AS o
USING unnest($1::text[], $2::text[], $3::text[]) AS i (provider, provider_message_id, status)
WHERE (o.provider, o.provider_message_id, o.status) = (i.provider, i.provider_message_id, i.status)
