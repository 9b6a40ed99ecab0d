-- name: living_keys
-- Keys as `Snapshot` reads them. Their clients are never deleted and keep their names.
SELECT k.id, k.key_hash AS key, k.changed_xid, c.name AS client, k.scopes, k.senders, k.countries, k.expires_at,
       k.revoked_at IS NOT NULL OR (k.expires_at IS NOT NULL AND k.expires_at <= now()) AS ended
FROM api_keys AS k
JOIN clients AS c ON c.id = k.client_id

-- name: living_clients
SELECT id, name AS key, changed_xid, require_idempotency_key, senders, countries, limits, special_rates, false AS ended
FROM clients

-- name: key_lives
SELECT EXISTS (
    SELECT FROM api_keys WHERE key_hash = $1 AND revoked_at IS NULL AND (expires_at IS NULL OR expires_at > now())
)

-- name: insert_client
-- Returns nothing where there is one of that name.
INSERT INTO clients (id, name, webhook_secret) VALUES ($1, $2, $3)
ON CONFLICT (name) DO NOTHING
RETURNING id

-- name: client
SELECT id, webhook_secret FROM clients WHERE name = $1

-- name: clients
-- By name, from behind $1 on, $2 of them at most.
SELECT name, require_idempotency_key, special_rates, senders, countries, limits, created_at
FROM clients
WHERE name > $1
ORDER BY name
LIMIT $2

-- name: shown_client
SELECT name, require_idempotency_key, special_rates, senders, countries, limits, created_at FROM clients WHERE name = $1

-- name: set_client
-- Changes what is not NULL. Of senders and countries an empty list means: all; a limit that is null: the default.
UPDATE clients
SET require_idempotency_key = coalesce($2, require_idempotency_key),
    special_rates = coalesce($3, special_rates),
    senders = CASE WHEN $4::text[] IS NULL THEN senders ELSE nullif($4, '{}') END,
    countries = CASE WHEN $5::text[] IS NULL THEN countries ELSE nullif($5, '{}') END,
    limits = jsonb_strip_nulls(limits || $6::jsonb)
WHERE name = $1
RETURNING id

-- name: set_webhook_secret
UPDATE clients SET webhook_secret = $2 WHERE id = $1 RETURNING name

-- name: insert_key
-- $8: how long it lasts, NULL for good. Returns nothing where the key is stored already.
INSERT INTO api_keys (id, client_id, key_hash, hint, scopes, senders, countries, lasts, expires_at)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8::interval, now() + $8::interval)
ON CONFLICT (key_hash) DO NOTHING
RETURNING (SELECT name FROM clients WHERE id = client_id) AS client

-- name: succeed_key
-- The new key $2 with the terms of the living key $1; $5: how long it lasts, NULL as long as that one was made for.
INSERT INTO api_keys (id, client_id, key_hash, hint, scopes, senders, countries, lasts, expires_at)
SELECT $2, client_id, $3, $4, scopes, senders, countries, coalesce($5::interval, lasts), now() + coalesce($5::interval, lasts)
FROM api_keys
WHERE id = $1 AND revoked_at IS NULL AND (expires_at IS NULL OR expires_at > now())
FOR UPDATE
RETURNING id, expires_at, scopes, (SELECT name FROM clients WHERE id = client_id) AS client

-- name: end_key
-- After $2 at the latest.
UPDATE api_keys SET expires_at = least(expires_at, now() + $2::interval) WHERE id = $1 RETURNING expires_at

-- name: keys
-- In the order of the ids, which is that of their making, from behind $1 on, $2 of them at most.
SELECT k.id, c.name AS client, k.hint, k.scopes, k.senders, k.countries, k.created_at, k.expires_at, k.last_used_at, k.revoked_at
FROM api_keys AS k
JOIN clients AS c ON c.id = k.client_id
WHERE k.id > $1
ORDER BY k.id
LIMIT $2

-- name: note_use
-- Another process may have noted it just now.
UPDATE api_keys SET last_used_at = now()
WHERE key_hash = ANY ($1::bytea[]) AND (last_used_at IS NULL OR last_used_at < now() - interval '30 seconds')

-- name: revoke_key
UPDATE api_keys SET revoked_at = now()
WHERE id = $1 AND revoked_at IS NULL
RETURNING (SELECT name FROM clients WHERE id = client_id) AS client
