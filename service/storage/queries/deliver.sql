-- name: claim
-- Gives due messages of one lane to a worker, going round the clients so that none fills the lane.
-- With each comes what is known of its number: suppressed or not, and the HLR result, for its screening.
-- $1 lane, $2 clients, $3 for each a floor of due_at (skips index entries of messages claimed long ago, which stay in
-- the way while an old snapshot is open; a client without one has none), $4 how many, $5 worker, $6 the client behind which
-- to begin, $7 how many clients to look at.
-- The walk hops along the queue's index from client to client that has messages in it, and once round at most. A client
-- with a floor is a fence: what lies below its floor is not walked over. One without gets the due_at that the hop found, so
-- that only the hop walks over what was claimed long ago. It ends where as many clients have due messages
-- as are wanted; the next claim goes on behind the last of them. A row comes even without a message: it says how far the
-- walk came (NULL: once round), and whether a client may have more than was looked at.
-- Whether a message is still due is judged after it is locked. Asked while it is looked up, it would let PostgreSQL look it
-- up in the queue's index, which is a walk over all that is due, in whatever lane (12 ms behind 20,000 messages).
-- The commit does not wait for the disk: what a crash takes back is due again, and no attempt is written without its claim.
WITH RECURSIVE floors AS MATERIALIZED (
    SELECT * FROM unnest($2::uuid[], $3::timestamptz[]) AS f (client_id, floor_at)
), walk AS (
    SELECT $6::uuid AS client_id, NULL::timestamptz AS floor_at, 0 AS hops, 0 AS found, false AS due, false AS wrapped
    UNION ALL
    SELECT CASE WHEN NOT w.wrapped THEN coalesce(n.client_id, '00000000-0000-0000-0000-000000000000')
                WHEN n.client_id <= $6 THEN n.client_id END,
           n.floor_at, w.hops + 1, w.found + d.due::int, d.due, w.wrapped OR n.client_id IS NULL
    FROM walk AS w
    LEFT JOIN LATERAL (
        SELECT client_id, floor_at FROM floors WHERE client_id > w.client_id ORDER BY client_id LIMIT 1
    ) AS f ON true
    LEFT JOIN LATERAL (
        SELECT m.client_id, m.due_at
        FROM messages AS m
        WHERE m.traffic = $1 AND m.client_id > w.client_id AND m.status IN ('queued', 'sending') AND m.due_at IS NOT NULL
          AND m.client_id < coalesce(f.client_id, 'ffffffff-ffff-ffff-ffff-ffffffffffff')
        ORDER BY m.client_id, m.due_at
        LIMIT 1
    ) AS q ON true
    CROSS JOIN LATERAL (
        SELECT coalesce(q.client_id, f.client_id) AS client_id, coalesce(q.due_at, f.floor_at) AS floor_at
    ) AS n
    CROSS JOIN LATERAL (
        SELECT NOT (w.wrapped AND n.client_id > $6) AND EXISTS (
            SELECT
            FROM messages AS m
            WHERE m.traffic = $1 AND m.client_id = n.client_id AND m.status IN ('queued', 'sending')
              AND m.due_at >= coalesce(n.floor_at, '-infinity') AND m.due_at <= now()
        ) AS due
    ) AS d
    WHERE w.client_id IS NOT NULL AND w.hops < $7 AND w.found < $4
), walked AS MATERIALIZED (
    SELECT client_id, wrapped, least($4, ceil(2.0 * $4 / greatest(found, 1)))::int AS each
    FROM walk
    ORDER BY hops DESC
    LIMIT 1
), found AS MATERIALIZED (
    SELECT q.id, q.due_at, row_number() OVER (PARTITION BY c.client_id ORDER BY q.due_at) AS turn
    FROM walk AS c
    CROSS JOIN walked
    CROSS JOIN LATERAL (
        SELECT m.id, m.due_at
        FROM messages AS m
        WHERE m.traffic = $1 AND m.client_id = c.client_id AND m.status IN ('queued', 'sending')
          AND m.due_at >= coalesce(c.floor_at, '-infinity') AND m.due_at <= now()
        ORDER BY m.due_at
        LIMIT walked.each
    ) AS q
    WHERE c.due
), candidates AS (
    SELECT id FROM found ORDER BY turn, due_at LIMIT $4
), locked AS MATERIALIZED (
    SELECT m.id, m.due_at, m.status
    FROM candidates
    JOIN messages AS m USING (id)
    ORDER BY m.id
    FOR NO KEY UPDATE OF m SKIP LOCKED
), claimed AS (
    UPDATE messages AS m
    SET status = 'sending', worker_id = $5, due_at = NULL
    FROM locked
    WHERE m.id = locked.id AND locked.due_at <= now() AND locked.status IN ('queued', 'sending')
    RETURNING m.id, m.client_id, m.recipient, m.sender, m.body, m.traffic, m.country, m.segments, m.encoding,
              m.created_at, locked.due_at, m.expires_at, m.send_at, m.traceparent
)
SELECT w.client_id AS walked_to, w.wrapped, EXISTS (SELECT FROM found WHERE turn = w.each) AS left_over, c.*,
       extract(epoch FROM c.expires_at - now())::float8 AS remaining_s,
       extract(epoch FROM now() - c.due_at)::float8 AS waited_s,
       extract(epoch FROM now() - c.send_at)::float8 AS age_s,
       a.tried,
       EXISTS (
           SELECT FROM suppressions AS s
           WHERE s.number = c.recipient AND (s.client_id IS NULL OR s.client_id = c.client_id)
       ) AS suppressed,
       h.number, h.status, h.checked_at, h.source, h.mcc, h.mnc, h.network, h.line_type, h.ported, h.roaming,
       h.error_code
FROM walked AS w
LEFT JOIN claimed AS c ON true
LEFT JOIN hlr_results AS h ON h.number = c.recipient AND h.expires_at > now()
CROSS JOIN (SELECT set_config('synchronous_commit', 'off', true)) AS unhurried
CROSS JOIN LATERAL (
    SELECT json_agg(json_build_array(id, provider, open, outcome, calls) ORDER BY started_at, id)::text AS tried
    FROM attempts
    WHERE message_id = c.id AND id BETWEEN first_attempt(c.id) AND last_attempt(c.id)
) AS a

-- name: begin_attempts
-- Writes attempts before their calls, and only for messages that are still the worker's, whose lease holds for more
-- than a second and which have not expired. A known attempt is a repeat: same key, same body, one call more.
-- None for a message that a provider is known to have: a receipt may have said so while its worker was in doubt.
-- call_s ends a second before the lease, by the clock (this statement may have waited for a lock).
-- $1 attempts, $2 messages, $3 providers, $4 workers.
WITH owned AS MATERIALIZED (
    SELECT m.id, m.worker_id, m.expires_at
    FROM (SELECT DISTINCT id FROM unnest($2::uuid[]) AS i (id)) AS i
    JOIN messages AS m USING (id)
    WHERE m.status = 'sending' AND m.expires_at > now()
    ORDER BY m.id
    FOR NO KEY UPDATE OF m
), allowed AS (
    SELECT i.id, i.message_id, i.provider, o.expires_at, w.expires_at - clock_timestamp() - interval '1 second' AS call
    FROM unnest($1::uuid[], $2::uuid[], $3::text[], $4::uuid[]) AS i (id, message_id, provider, worker_id)
    JOIN owned AS o ON o.id = i.message_id AND o.worker_id = i.worker_id
    JOIN workers AS w ON w.id = i.worker_id AND w.expires_at > clock_timestamp() + interval '1 second'
    WHERE NOT EXISTS (
        SELECT FROM attempts AS a
        WHERE a.message_id = o.id AND a.id BETWEEN first_attempt(o.id) AND last_attempt(o.id)
          AND a.open AND a.outcome = 'accepted'
    )
), written AS (
    INSERT INTO attempts AS a (id, message_id, provider)
    SELECT id, message_id, provider FROM allowed
    ON CONFLICT (id) DO UPDATE SET calls = a.calls + 1
    WHERE a.open AND a.provider = EXCLUDED.provider  -- closed: somebody knows by now
    RETURNING a.id, a.started_at
)
SELECT w.id,
       extract(epoch FROM a.call)::float8 AS call_s,
       greatest(1, floor(extract(epoch FROM a.expires_at - w.started_at)))::int AS validity_s
FROM written AS w
JOIN allowed AS a USING (id)

-- name: lock_messages
-- Taken first by everything that decides from a message and its attempts together, so that the next statement sees
-- what the last holder committed. In id order, so that two batches cannot deadlock.
-- (A join, because `id = ANY` looks into every partition where it is planned without the ids.)
SELECT m.id FROM unnest($1::uuid[]) AS i (id) JOIN messages AS m USING (id) ORDER BY m.id FOR NO KEY UPDATE OF m

-- name: settle
-- Closes attempts with their outcomes and moves their messages on; runs under lock_messages.
-- An ended message puts its webhooks into the outbox here, in the same statement.
-- $1..$12 what happened, $13 how long a receipt is waited for after expiry, $14 the traffic whose text goes at the end.
WITH input AS (
    SELECT *
    FROM unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::text[], $5::boolean[], $6::text[], $7::text[], $8::text[],
                $9::int[], $10::text[], $11::float8[], $12::boolean[])
      AS i (message_id, worker_id, attempt_id, outcome, closes, reason, code, provider_message_id,
            error_code, move, delay_s, by_id)
), closed AS (
    UPDATE attempts AS a
    -- What was unknown keeps the reason why, as after a receipt: it tells why another provider may have been asked.
    SET outcome = i.outcome, reason = coalesce(i.reason, a.reason), code = i.code, ended_at = now(),
        provider_message_id = coalesce(i.provider_message_id, a.provider_message_id),
        receipt_key = CASE WHEN i.by_id THEN i.provider_message_id ELSE a.receipt_key END, open = a.open AND NOT i.closes
    FROM input AS i
    -- What a receipt said stands; an answer that agrees with it adds the provider's id. An answer that closes speaks of
    -- the first call only, so it is too late once another worker has repeated that call.
    WHERE a.id = i.attempt_id AND (a.outcome IS NULL OR a.outcome IN ('unknown', i.outcome))
      AND NOT (i.move = 'keep' AND i.closes AND a.calls > 1)
), woken AS (
    -- A late answer of a worker that was given up: where nothing is open any more, nobody needs to wait for a receipt.
    -- (A `sent` message is then one of which another provider has said that it failed.)
    UPDATE messages AS m
    SET due_at = now()
    FROM input AS i
    JOIN attempts AS a ON a.id = i.attempt_id
    WHERE i.move = 'keep' AND i.closes AND a.open AND a.calls = 1 AND (a.outcome IS NULL OR a.outcome = 'unknown')
      AND m.id = i.message_id AND m.status IN ('sending', 'sent') AND m.worker_id IS NULL
      AND NOT EXISTS (
          SELECT FROM attempts AS o
          WHERE o.message_id = m.id AND o.open AND o.id <> a.id AND o.id BETWEEN first_attempt(m.id) AND last_attempt(m.id)
      )
), given_up AS (
    UPDATE attempts AS a
    SET open = false
    FROM input AS i
    WHERE i.move = 'give_up' AND i.attempt_id IS NULL AND a.message_id = i.message_id AND a.open
      AND a.id BETWEEN first_attempt(i.message_id) AND last_attempt(i.message_id)
), decided AS MATERIALIZED (
    SELECT i.*,
           CASE WHEN i.move IN ('fail', 'put_back') AND EXISTS (
                    SELECT FROM attempts AS a
                    WHERE a.message_id = i.message_id AND a.open
                      AND a.id BETWEEN first_attempt(i.message_id) AND last_attempt(i.message_id)
                      AND (a.id IS DISTINCT FROM i.attempt_id OR NOT i.closes OR a.outcome = 'accepted')
                )
                THEN CASE i.move WHEN 'fail' THEN 'hold' ELSE 'park' END
                -- A late answer has cleared up what it was to be held for.
                WHEN i.move = 'hold' AND i.attempt_id IS NULL AND NOT EXISTS (
                    SELECT FROM attempts AS a
                    WHERE a.message_id = i.message_id AND a.open
                      AND a.id BETWEEN first_attempt(i.message_id) AND last_attempt(i.message_id)
                )
                THEN 'put_back'
                ELSE i.move
           END AS verdict
    FROM input AS i
    WHERE i.move <> 'keep'
), moved AS (
    UPDATE messages AS m
    SET status = CASE d.verdict
                     WHEN 'sent' THEN 'sent'
                     WHEN 'put_back' THEN 'queued'
                     WHEN 'park' THEN 'sending'
                     WHEN 'hold' THEN 'sending'
                     WHEN 'no_receipt' THEN 'undelivered'
                     ELSE 'failed'
                 END,
        due_at = CASE
                     WHEN d.verdict IN ('sent', 'hold') THEN m.expires_at + $13::interval
                     WHEN d.verdict IN ('put_back', 'park') THEN least(now() + make_interval(secs => d.delay_s), m.expires_at)
                 END,
        worker_id = NULL,
        reason = CASE WHEN d.verdict <> 'sent' THEN d.reason END,
        error_code = CASE WHEN d.verdict IN ('fail', 'give_up') THEN d.error_code END,
        sent_at = CASE WHEN d.verdict = 'sent' THEN now() ELSE m.sent_at END,
        ended_at = CASE WHEN d.verdict IN ('fail', 'give_up', 'no_receipt') THEN now() END,
        body = CASE WHEN d.verdict IN ('fail', 'give_up', 'no_receipt') AND m.traffic = ANY ($14::text[]) THEN NULL
                    ELSE m.body END
    FROM decided AS d
    WHERE m.id = d.message_id
      AND CASE d.verdict
              WHEN 'no_receipt' THEN m.status = 'sent' AND m.due_at <= now()
              -- A rejection is final for the message, whoever hears of it, unless somebody works on it.
              WHEN 'fail' THEN m.status = 'sending'
                               AND (m.worker_id = d.worker_id OR m.worker_id IS NULL AND d.closes AND d.attempt_id IS NOT NULL)
              ELSE m.status = 'sending' AND m.worker_id = d.worker_id
          END
    RETURNING m.id, m.client_id, m.callback_url, m.status, m.reason, m.error_code, m.traffic, m.ended_at
), outbox AS (
    INSERT INTO webhook_deliveries (id, client_id, message_id, endpoint_id, target, status, reason, error_code,
                                    event_at, due_at)
    SELECT new_id(), m.client_id, m.id, e.id, webhook_target(m.client_id, m.callback_url, e.id), m.status, m.reason,
           m.error_code, now(), now()
    FROM moved AS m
    LEFT JOIN webhook_endpoints AS e
      ON m.callback_url IS NULL AND e.client_id = m.client_id AND e.disabled_at IS NULL
     AND (e.events IS NULL OR 'message.' || m.status = ANY (e.events))
    WHERE m.ended_at IS NOT NULL AND (m.callback_url IS NOT NULL OR e.id IS NOT NULL)
)
SELECT id, status, reason, traffic FROM moved

-- name: begin_worker
INSERT INTO workers (id, expires_at) VALUES ($1, now() + $2::interval)

-- name: renew_worker
-- Returns nothing once the lease has run out. Never brings a forgotten worker back: its messages are others' by now.
UPDATE workers SET expires_at = now() + $2::interval WHERE id = $1 AND expires_at > now() RETURNING id

-- name: retire_worker
-- A worker that stops of itself: what it still holds is free at once.
UPDATE workers SET expires_at = now() WHERE id = $1
