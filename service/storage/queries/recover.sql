-- name: dead_workers
-- Also one that stood still until it was forgotten, and then claimed under its old id.
SELECT id FROM workers WHERE expires_at <= now()
UNION
SELECT worker_id FROM messages AS m
WHERE worker_id IS NOT NULL AND NOT EXISTS (SELECT FROM workers AS w WHERE w.id = m.worker_id)
UNION
SELECT worker_id FROM webhook_deliveries AS d
WHERE worker_id IS NOT NULL AND NOT EXISTS (SELECT FROM workers AS w WHERE w.id = d.worker_id)

-- name: lock_abandoned
-- Messages of a worker whose lease has run out. $1 worker, $2 how many.
SELECT id FROM messages WHERE worker_id = $1 AND status = 'sending' ORDER BY id LIMIT $2
FOR NO KEY UPDATE SKIP LOCKED

-- name: close_abandoned
-- A call that was on its way when its worker died may have been accepted.
UPDATE attempts AS a SET outcome = 'unknown', reason = 'worker_died', ended_at = now()
FROM unnest($1::uuid[]) AS i (id)
JOIN messages AS m USING (id)
WHERE a.outcome IS NULL AND a.message_id = m.id AND a.id BETWEEN first_attempt(i.id) AND last_attempt(i.id)
  AND m.worker_id = $2 AND m.status = 'sending'

-- name: release_abandoned
UPDATE messages AS m
SET worker_id = NULL, due_at = now(),
    status = CASE WHEN EXISTS (SELECT FROM attempts AS a
                               WHERE a.message_id = m.id AND a.open
                                 AND a.id BETWEEN first_attempt(m.id) AND last_attempt(m.id)) THEN 'sending'
                  ELSE 'queued' END
FROM unnest($1::uuid[]) AS i (id)
WHERE m.id = i.id AND m.worker_id = $2 AND m.status = 'sending'
RETURNING m.id

-- name: release_deliveries
UPDATE webhook_deliveries SET worker_id = NULL, due_at = now() WHERE worker_id = $1 AND ($2::uuid[] IS NULL OR id = ANY ($2))

-- name: forget_worker
DELETE FROM workers WHERE id = $1 AND expires_at <= now()
  AND NOT EXISTS (SELECT FROM messages WHERE worker_id = $1)
  AND NOT EXISTS (SELECT FROM webhook_deliveries WHERE worker_id = $1)

-- name: strays
-- Messages that a living worker holds on paper but has lost sight of (a store error cut their way short).
-- $1 worker, $2 what it is working on.
SELECT id FROM messages WHERE worker_id = $1 AND id <> ALL ($2::uuid[]) LIMIT 500

-- name: stray_deliveries
SELECT id FROM webhook_deliveries WHERE worker_id = $1 AND id <> ALL ($2::uuid[]) LIMIT 500

-- name: without_receipt
SELECT id FROM messages WHERE status = 'sent' AND due_at <= now() ORDER BY due_at LIMIT 500

-- name: forget_keys
DELETE FROM idempotency_keys
WHERE (client_id, endpoint, key) IN
      (SELECT client_id, endpoint, key FROM idempotency_keys WHERE expires_at <= now() ORDER BY expires_at LIMIT $1)

-- name: forget_targets
-- Targets that nothing was sent to for a day after their last failure: clients name them, so there may be any number.
DELETE FROM webhook_targets
WHERE target IN (SELECT target FROM webhook_targets WHERE blocked_until < now() - interval '1 day' LIMIT $1)

-- name: forget_old_orphans
-- $1 how old, $2 how many.
DELETE FROM orphan_receipts
WHERE (provider, provider_message_id, status) IN
      (SELECT provider, provider_message_id, status FROM orphan_receipts WHERE received_at < now() - $1::interval LIMIT $2)

-- name: lane_depths
-- How much is due in each lane, counted no further than $1, and how long the oldest has waited. The recursion hops along
-- the queue's index from client to client that has messages in it, as a claim does, and looks at $2 clients at most.
WITH RECURSIVE lanes AS (
    SELECT unnest(ARRAY['otp', 'transactional', 'marketing']) AS traffic
), queued AS (
    SELECT traffic, '00000000-0000-0000-0000-000000000000'::uuid AS client_id, 0 AS hops FROM lanes
    UNION ALL
    SELECT q.traffic, (
        SELECT m.client_id
        FROM messages AS m
        WHERE m.traffic = q.traffic AND m.client_id > q.client_id AND m.status IN ('queued', 'sending')
          AND m.due_at IS NOT NULL
        ORDER BY m.client_id
        LIMIT 1
    ), q.hops + 1
    FROM queued AS q
    WHERE q.client_id IS NOT NULL AND q.hops < $2
)
SELECT t.traffic, d.depth, coalesce(o.oldest_s, 0)::float8 AS oldest_s
FROM lanes AS t
CROSS JOIN LATERAL (
    SELECT count(*) AS depth
    FROM (
        SELECT
        FROM queued AS q
        CROSS JOIN LATERAL (
            SELECT FROM messages AS m
            WHERE m.traffic = t.traffic AND m.client_id = q.client_id AND m.status IN ('queued', 'sending')
              AND m.due_at <= now()
            LIMIT $1
        ) AS due
        WHERE q.traffic = t.traffic
        LIMIT $1
    ) AS counted
) AS d
CROSS JOIN LATERAL (
    SELECT extract(epoch FROM now() - min(first.due_at)) AS oldest_s
    FROM queued AS q
    CROSS JOIN LATERAL (
        SELECT m.due_at
        FROM messages AS m
        WHERE m.traffic = t.traffic AND m.client_id = q.client_id AND m.status IN ('queued', 'sending')
          AND m.due_at <= now()
        ORDER BY m.due_at
        LIMIT 1
    ) AS first
    WHERE q.traffic = t.traffic
) AS o
