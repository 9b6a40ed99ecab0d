-- name: lock_client
-- Two requests of one client wait for each other, so that together they do not exceed its number of endpoints.
SELECT FROM clients WHERE id = $1 FOR NO KEY UPDATE

-- name: insert_endpoint
-- Returns nothing where the client has $6 endpoints already.
INSERT INTO webhook_endpoints (id, client_id, url, secret, events)
SELECT $1, $2, $3, $4, $5
WHERE (SELECT count(*) FROM webhook_endpoints WHERE client_id = $2) < $6
RETURNING id

-- name: endpoints
-- $1 client, $2 one of its endpoints, or NULL: all.
SELECT id, url, events, secret, disabled_at, disabled_reason, created_at,
       CASE WHEN previous_secret_until > now() THEN previous_secret END AS previous_secret,
       CASE WHEN previous_secret_until > now() THEN previous_secret_until END AS previous_secret_until
FROM webhook_endpoints
WHERE client_id = $1 AND ($2::uuid IS NULL OR id = $2)
ORDER BY id

-- name: update_endpoint
-- $3 and $6 NULL: unchanged; $5 counts only where $4 says so, because there NULL means all events.
UPDATE webhook_endpoints
SET url = coalesce($3, url),
    events = CASE WHEN $4::boolean THEN $5::text[] ELSE events END,
    disabled_at = CASE $6::boolean WHEN true THEN NULL WHEN false THEN coalesce(disabled_at, now()) ELSE disabled_at END,
    disabled_reason = CASE $6::boolean WHEN true THEN NULL WHEN false THEN coalesce(disabled_reason, 'by its client')
                                       ELSE disabled_reason END
WHERE id = $1 AND client_id = $2
RETURNING id

-- name: rotate_secret
-- The present secret goes on signing for $4 seconds. One that was still overlapping ends now.
UPDATE webhook_endpoints
SET secret = $3,
    previous_secret = CASE WHEN $4::float8 > 0 THEN secret END,
    previous_secret_until = CASE WHEN $4::float8 > 0 THEN now() + make_interval(secs => $4) END
WHERE id = $1 AND client_id = $2
RETURNING id

-- name: delete_endpoint
DELETE FROM webhook_endpoints WHERE id = $1 AND client_id = $2 RETURNING id

-- name: forget_target
DELETE FROM webhook_targets WHERE target = $1

-- name: try_target
-- A target that is left alone may be probed at once: its client says that it works again.
UPDATE webhook_targets SET blocked_until = now() WHERE target = $1

-- name: deliveries
-- Newest first. $1 endpoint, $2 state or NULL, $3 an id to stay below, $4 how many.
SELECT id, message_id, status, state, attempts, due_at, last_status, last_error, created_at, ended_at
FROM webhook_deliveries
WHERE endpoint_id = $1 AND ($2::text IS NULL OR state = $2) AND id < $3
ORDER BY id DESC
LIMIT $4

-- name: replayable
-- $1 a webhook, $2 its client. `obstacle`: why its endpoint gets nothing.
SELECT d.target,
       CASE WHEN NOT EXISTS (SELECT FROM messages AS m WHERE m.id = d.message_id) THEN 'message_purged'
            WHEN d.endpoint_id IS NULL THEN NULL
            WHEN e.id IS NULL THEN 'endpoint_deleted'
            WHEN e.disabled_at IS NOT NULL THEN 'endpoint_disabled' END AS obstacle
FROM webhook_deliveries AS d
LEFT JOIN webhook_endpoints AS e ON e.id = d.endpoint_id
WHERE d.id = $1 AND d.client_id = $2

-- name: lock_range
-- $1 endpoint, $2 from, $3 to (without it), $4 state, $5 how many.
SELECT id
FROM webhook_deliveries AS d
WHERE endpoint_id = $1 AND created_at >= $2 AND created_at < $3 AND state = $4
  AND id >= smallest_at($2 - interval '5 minutes') AND id < smallest_at($3 + interval '5 minutes')
  AND EXISTS (SELECT FROM messages AS m WHERE m.id = d.message_id)
ORDER BY id
LIMIT $5
FOR UPDATE OF d

-- name: replay
-- Due at once, with all retries before it again. What is on its way at this moment goes on, and what tells of a message
-- that has been purged stays.
UPDATE webhook_deliveries AS d
SET state = 'pending', attempts = 0, due_at = now(), ended_at = NULL
WHERE id = ANY ($1) AND worker_id IS NULL AND EXISTS (SELECT FROM messages AS m WHERE m.id = d.message_id)
