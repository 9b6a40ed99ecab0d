-- name: record
INSERT INTO audit_log (id, actor, action, object, details, request_id) VALUES ($1, $2, $3, $4, $5::jsonb, $6)

-- name: entries
-- Newest first. $1 an id to stay below, $2 how many.
SELECT id, at, actor, action, object, details, request_id FROM audit_log WHERE id < $1 ORDER BY id DESC LIMIT $2
