-- name: due_targets
-- Targets with webhooks that are due, in their order from $1 on: hops from one to the next along the index, $2 times at
-- most, over those too whose next try is still to come. And $3 (of clients $4), which are in use, whether it is their
-- turn or not. `next` is where to go on; NULL: that was all. A row without a target tells nothing but that.
WITH RECURSIVE targets AS (
    (
        SELECT target, client_id, 1 AS hops
        FROM webhook_deliveries
        WHERE due_at IS NOT NULL AND target > $1
        ORDER BY target
        LIMIT 1
    )
    UNION ALL
    SELECT next.target, next.client_id, t.hops + 1
    FROM targets AS t
    CROSS JOIN LATERAL (
        SELECT d.target, d.client_id
        FROM webhook_deliveries AS d
        WHERE d.due_at IS NOT NULL AND d.target > t.target
        ORDER BY d.target
        LIMIT 1
    ) AS next
    WHERE t.hops < $2
), due AS (
    SELECT t.target, t.client_id
    FROM targets AS t
    WHERE EXISTS (SELECT FROM webhook_deliveries AS d WHERE d.target = t.target AND d.due_at <= now())
    UNION
    SELECT target, client_id FROM unnest($3::text[], $4::uuid[]) AS u (target, client_id)
)
SELECT d.target, d.client_id, coalesce(b.failures, 0) AS failures,
       coalesce(b.blocked_until > now(), false) AS blocked, n.next
FROM (SELECT (SELECT target FROM targets WHERE hops = $2) AS next) AS n
LEFT JOIN due AS d ON true
LEFT JOIN webhook_targets AS b ON b.target = d.target

-- name: claim_deliveries
-- Gives due webhooks to a worker, going round the clients, and round the targets of each: first to whom it calls least.
-- $1 worker, $2 how many; $3 targets, $4 how many each may get, $5 how many each has under way; and of its client
-- $6 the id, $7 and $8 the same numbers.
-- The commit does not wait for the disk (here and in settle_deliveries): what a crash takes back goes out again.
WITH candidates AS (
    SELECT id
    FROM (
        SELECT d.id, d.due_at, t.client_room, t.client_calls,
               row_number() OVER (PARTITION BY t.client_id ORDER BY d.turn, d.due_at) AS turn
        FROM unnest($3::text[], $4::int[], $5::int[], $6::uuid[], $7::int[], $8::int[])
          AS t (target, room, calls, client_id, client_room, client_calls)
        CROSS JOIN LATERAL (
            SELECT id, due_at, t.calls + row_number() OVER (ORDER BY due_at) AS turn
            FROM webhook_deliveries
            WHERE target = t.target AND due_at <= now()
            ORDER BY due_at
            LIMIT t.room
        ) AS d
    ) AS d
    WHERE turn <= client_room
    ORDER BY client_calls + turn, due_at
    LIMIT $2
), locked AS MATERIALIZED (
    SELECT d.id
    FROM webhook_deliveries AS d
    JOIN candidates USING (id)
    WHERE d.due_at <= now()
    ORDER BY d.id
    FOR UPDATE OF d SKIP LOCKED
), claimed AS (
    UPDATE webhook_deliveries AS d
    SET worker_id = $1, due_at = NULL, attempts = attempts + 1
    FROM locked
    WHERE d.id = locked.id
    RETURNING d.*
)
SELECT c.id, c.target, c.client_id, c.status, c.reason, c.error_code, c.event_at, c.attempts, c.endpoint_id,
       m.id AS message_id, m.recipient, m.sender, m.reference, m.batch_id, m.segments, m.traceparent,
       CASE WHEN e.disabled_at IS NULL THEN coalesce(e.url, m.callback_url) END AS url,
       e.disabled_at IS NOT NULL AS disabled,
       coalesce(e.secret, k.webhook_secret) AS secret,
       CASE WHEN e.previous_secret_until > now() THEN e.previous_secret END AS previous_secret,
       coalesce(b.failures, 0) AS failures, extract(epoch FROM now() - c.created_at)::float8 AS age_s, c.worker_id
FROM claimed AS c
LEFT JOIN webhook_targets AS b ON b.target = c.target
JOIN messages AS m ON m.id = c.message_id
JOIN clients AS k ON k.id = c.client_id
LEFT JOIN webhook_endpoints AS e ON e.id = c.endpoint_id
CROSS JOIN (SELECT set_config('synchronous_commit', 'off', true)) AS unhurried

-- name: settle_deliveries
-- $1 webhooks, $2 worker of each, $3 new states, $4 delays to the next try (NULL: none), $5 HTTP statuses, $6 errors.
-- (Not `=` for the worker: the plan would go by the index of what is claimed, where old snapshots keep all ever claimed.)
UPDATE webhook_deliveries AS d
SET state = i.state, worker_id = NULL, due_at = now() + make_interval(secs => i.delay_s), last_status = i.last_status,
    last_error = i.last_error, ended_at = CASE WHEN i.state <> 'pending' THEN now() END
FROM unnest($1::uuid[], $2::uuid[], $3::text[], $4::float8[], $5::smallint[], $6::text[])
  AS i (id, worker_id, state, delay_s, last_status, last_error)
CROSS JOIN (SELECT set_config('synchronous_commit', 'off', true)) AS unhurried
WHERE d.id = i.id AND d.worker_id IS NOT DISTINCT FROM i.worker_id

-- name: block_target
-- Leaves a failing target alone for $3 seconds.
INSERT INTO webhook_targets AS t (target, failures, blocked_until)
VALUES ($1, $2, now() + make_interval(secs => $3))
ON CONFLICT (target) DO UPDATE SET failures = EXCLUDED.failures, blocked_until = EXCLUDED.blocked_until

-- name: unblock_target
DELETE FROM webhook_targets WHERE target = $1

-- name: disable_endpoint
UPDATE webhook_endpoints SET disabled_at = now(), disabled_reason = $2 WHERE id = $1 AND disabled_at IS NULL

-- name: end_deliveries_of_endpoint
-- Nothing more goes to an endpoint that is disabled or deleted, as $2 says: ends $3 of its webhooks, those under way too.
-- By the index of what waits and by that of what workers have: its own index leads over all that was ever delivered.
WITH pending AS MATERIALIZED (
    (SELECT id FROM webhook_deliveries WHERE target = $1::uuid::text AND due_at IS NOT NULL ORDER BY due_at LIMIT $3)
    UNION ALL
    SELECT d.id
    FROM workers AS w
    CROSS JOIN LATERAL (SELECT id, endpoint_id FROM webhook_deliveries WHERE worker_id = w.id OFFSET 0) AS d
    WHERE d.endpoint_id = $1
    LIMIT $3
), locked AS MATERIALIZED (  -- in the order of settle_deliveries
    SELECT id
    FROM webhook_deliveries
    WHERE id = ANY (ARRAY(SELECT id FROM pending)) AND state = 'pending'  -- a join may go along all that there is
    ORDER BY id
    FOR UPDATE
)
UPDATE webhook_deliveries AS d
SET state = 'dead', due_at = NULL, worker_id = NULL, last_error = $2, ended_at = now()
FROM locked
WHERE d.id = locked.id
