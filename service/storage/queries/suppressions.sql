-- name: add
-- Puts numbers on a client's list ($2 NULL: on everybody's) and returns those that were not on it. $1 in their order.
INSERT INTO suppressions (number, client_id, reason, source)
SELECT number, $2, $3, $4 FROM unnest($1::text[]) AS i (number)
ON CONFLICT DO NOTHING
RETURNING number

-- name: put
-- The same for one number; returns it as it stands on the list, which is as it came there first.
INSERT INTO suppressions AS s (number, client_id, reason, source) VALUES ($1, $2, $3, $4)
ON CONFLICT (number, client_id) DO UPDATE SET reason = s.reason
RETURNING number, reason, source, created_at, s.xmax = 0 AS is_new  -- xmax: of the update, where there was one

-- name: opt_out
-- Puts the recipient of a rejected attempt on the list of the client that sent to it.
INSERT INTO suppressions (number, client_id, reason, source)
SELECT m.recipient, m.client_id, 'opted_out', 'provider:' || a.provider
FROM attempts AS a
JOIN messages AS m ON m.id = a.message_id
WHERE a.id = $1
ON CONFLICT DO NOTHING

-- name: page
-- A client's list in the order of the numbers, from behind $2 on. $3 how many.
SELECT number, reason, source, created_at
FROM suppressions
WHERE client_id = $1 AND number > $2
ORDER BY number
LIMIT $3

-- name: one
-- The same for one number.
SELECT number, reason, source, created_at FROM suppressions WHERE client_id = $1 AND number > $2 AND number = $3

-- name: remove
DELETE FROM suppressions WHERE number = $2 AND client_id = $1 RETURNING number
