-- name: texts_due
-- For each traffic ($1, with the age of $2): from when to when the messages ended whose text is to go. Never later than an
-- hour ago, because what is being committed at this moment may have ended a little before.
SELECT t.traffic, p.ended_before AS since, now() - greatest(t.age, interval '1 hour') AS until
FROM unnest($1::text[], $2::interval[]) AS t (traffic, age)
LEFT JOIN text_purges AS p USING (traffic)
WHERE p.ended_before IS NULL OR p.ended_before < now() - greatest(t.age, interval '1 hour')

-- name: count_texts
-- $1 traffic, $2 from, $3 to.
SELECT count(*) AS texts, min(ended_at) AS oldest
FROM messages
WHERE traffic = $1 AND ended_at >= coalesce($2::timestamptz, '-infinity') AND ended_at < $3 AND body IS NOT NULL

-- name: purge_texts
-- $1 traffic, $2 from, $3 to, $4 how many. Returns the last end among them.
WITH due AS (
    SELECT id, ended_at
    FROM messages
    WHERE traffic = $1 AND ended_at >= coalesce($2::timestamptz, '-infinity') AND ended_at < $3 AND body IS NOT NULL
    ORDER BY ended_at
    LIMIT $4
), locked AS MATERIALIZED (
    SELECT m.id FROM due JOIN messages AS m USING (id) ORDER BY m.id FOR NO KEY UPDATE OF m
), purged AS (
    UPDATE messages AS m SET body = NULL FROM locked WHERE m.id = locked.id
)
SELECT count(*) AS texts, max(ended_at) AS last FROM due

-- name: texts_are_purged
-- $1 traffic, $2 of all that ended before.
INSERT INTO text_purges AS p (traffic, ended_before) VALUES ($1, $2)
ON CONFLICT (traffic) DO UPDATE SET ended_before = greatest(p.ended_before, EXCLUDED.ended_before)

-- name: one_at_a_time
-- False where another worker holds it. Until the end of the transaction, so it works through PgBouncer too.
SELECT pg_try_advisory_xact_lock($1)

-- name: patience
-- How long a change of tables waits for others, who then wait behind it, and how long it may take.
SELECT set_config('lock_timeout', '200ms', true), set_config('statement_timeout', '1s', true)

-- name: haste
-- How long others wait for one more look at what has been found unused before the lock.
SELECT set_config('statement_timeout', '200ms', true)

-- name: missing_partitions
-- Of the tables $1, for this month and the next.
SELECT t.parent, m::date AS month
FROM unnest($1::text[]) AS t (parent)
CROSS JOIN generate_series(date_trunc('month', now() AT TIME ZONE 'UTC'),
                           date_trunc('month', now() AT TIME ZONE 'UTC') + interval '1 month', interval '1 month') AS m
WHERE to_regclass(t.parent || to_char(m, '_YYYY_MM')) IS NULL

-- name: make_partition
SELECT make_partition($1, $2)

-- name: old_partitions
-- Partitions of the tables $1 whose month ended more than $2 ago, in the order of the tables, oldest first.
SELECT p.parent AS "table", p.name, p.month, greatest(p.reltuples, 0)::bigint AS rows, pg_total_relation_size(p.oid) AS bytes
FROM (
    SELECT t.parent, t.ordinal, c.relname AS name, c.oid, c.reltuples,
           to_date(substring(c.relname FROM '\d{4}_\d{2}$'), 'YYYY_MM') AS month  -- NULL: the default partition
    FROM unnest($1::text[]) WITH ORDINALITY AS t (parent, ordinal)
    JOIN pg_inherits AS i ON i.inhparent = t.parent::regclass
    JOIN pg_class AS c ON c.oid = i.inhrelid
) AS p
WHERE (p.month + interval '1 month') AT TIME ZONE 'UTC' <= now() - $2::interval
ORDER BY p.ordinal, p.month

-- name: lock_partition
LOCK TABLE ONLY {table}, ONLY {partition} IN ACCESS EXCLUSIVE MODE

-- name: drop_partition
DROP TABLE {partition}

-- name: messages_in_use
-- Whether a message has not ended, or a webhook of one waits. Each part is a look into a small partial index.
SELECT EXISTS (SELECT FROM {partition} WHERE due_at IS NOT NULL AND status IN ('queued', 'sending'))
    OR EXISTS (SELECT FROM {partition} WHERE worker_id IS NOT NULL)
    OR EXISTS (SELECT FROM {partition} WHERE status = 'sent')
    OR EXISTS (SELECT FROM webhook_deliveries WHERE due_at IS NOT NULL AND message_id >= $1 AND message_id < $2)
    OR EXISTS (SELECT FROM webhook_deliveries WHERE worker_id IS NOT NULL AND message_id >= $1 AND message_id < $2)

-- name: webhook_deliveries_in_use
SELECT EXISTS (SELECT FROM {partition} WHERE due_at IS NOT NULL) OR EXISTS (SELECT FROM {partition} WHERE worker_id IS NOT NULL)

-- name: exists
SELECT to_regclass($1) IS NOT NULL

-- name: forget_stray_messages
-- Rows with ids of a wrong clock go one by one. $1 how old, $2 how many.
DELETE FROM messages_default
WHERE id IN (
    SELECT id FROM messages_default AS m
    WHERE created_at < now() - $1::interval AND ended_at IS NOT NULL
      AND NOT EXISTS (SELECT FROM webhook_deliveries WHERE message_id = m.id AND state = 'pending')
    LIMIT $2
)

-- name: forget_stray_attempts
DELETE FROM attempts_default
WHERE id IN (
    SELECT id FROM attempts_default AS a
    WHERE started_at < now() - $1::interval AND NOT EXISTS (SELECT FROM messages WHERE id = a.message_id)
    LIMIT $2
)

-- name: forget_stray_receipts
DELETE FROM receipts_default
WHERE attempt_id IN (
    SELECT attempt_id FROM receipts_default AS r
    WHERE received_at < now() - $1::interval AND NOT EXISTS (SELECT FROM attempts WHERE id = r.attempt_id)
    LIMIT $2
)

-- name: forget_stray_webhook_deliveries
DELETE FROM webhook_deliveries_default
WHERE id IN (
    SELECT id FROM webhook_deliveries_default WHERE created_at < now() - $1::interval AND state <> 'pending' LIMIT $2
)

-- name: forget_stray_batches
DELETE FROM batches_default
WHERE id IN (SELECT id FROM batches_default WHERE created_at < now() - $1::interval LIMIT $2)
