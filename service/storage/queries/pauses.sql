-- name: pauses
SELECT provider, reason, paused_by, paused_at FROM provider_pauses ORDER BY provider

-- name: pause
INSERT INTO provider_pauses (provider, reason, paused_by) VALUES ($1, $2, $3)
ON CONFLICT (provider) DO UPDATE SET reason = excluded.reason, paused_by = excluded.paused_by

-- name: resume
DELETE FROM provider_pauses WHERE provider = $1 RETURNING provider

-- name: under_way
-- Attempts without an outcome, of messages that a worker has: few, and found by their indexes.
SELECT a.provider, count(*)::int AS calls
FROM messages AS m
JOIN attempts AS a ON a.id BETWEEN first_attempt(m.id) AND last_attempt(m.id)
WHERE m.worker_id IS NOT NULL AND a.outcome IS NULL
GROUP BY a.provider
