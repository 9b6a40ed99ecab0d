-- name: principals
-- Every living key with what its client may do.
SELECT k.key_hash, k.id AS key_id, k.scopes, c.id AS client_id, c.name, c.require_idempotency_key, c.senders, c.countries,
       c.limits
FROM api_keys AS k
JOIN clients AS c ON c.id = k.client_id
WHERE k.revoked_at IS NULL

-- name: ensure_client
INSERT INTO clients (id, name, webhook_secret) VALUES ($1, $2, $3)
ON CONFLICT (name) DO NOTHING

-- name: client
SELECT id, webhook_secret FROM clients WHERE name = $1

-- name: clients
SELECT name, require_idempotency_key, senders, countries, limits, created_at FROM clients ORDER BY name

-- name: set_client
-- Changes what is not NULL.
UPDATE clients
SET require_idempotency_key = coalesce($2, require_idempotency_key), limits = limits || coalesce($3::jsonb, '{}')
WHERE name = $1
RETURNING id

-- name: set_webhook_secret
UPDATE clients SET webhook_secret = $2 WHERE id = $1

-- name: insert_key
INSERT INTO api_keys (id, client_id, key_hash, hint, scopes) VALUES ($1, $2, $3, $4, $5)
ON CONFLICT (key_hash) DO NOTHING

-- name: keys
SELECT k.id, c.name AS client, k.hint, k.scopes, k.created_at, k.revoked_at
FROM api_keys AS k
JOIN clients AS c ON c.id = k.client_id
ORDER BY k.created_at, k.id

-- name: revoke_key
UPDATE api_keys SET revoked_at = now() WHERE id = $1 AND revoked_at IS NULL RETURNING id
