-- name: messages
-- Messages of a client, newest first, along the index (client_id, id): the ids bound the walk, the filters thin it out.
-- Ids and created_at come from different clocks, so the bounds of the ids are wider than the window.
-- $1 client, $2 least id, $3 id to stay below, $4 and $5 window of created_at (no end: NULL), $6..$11 filters
-- (NULL: any), $12 how many. The source is messages, or what a filter of its own index leaves of them.
SELECT id, batch_id, recipient, sender, traffic, country, encoding, segments, reference, status, reason, error_code,
       send_at, expires_at, created_at, sent_at, ended_at
FROM {source}
WHERE client_id = $1 AND id >= $2 AND id < $3
  AND created_at >= $4 AND ($5::timestamptz IS NULL OR created_at < $5)
  AND ($6::text IS NULL OR status = $6)
  AND ($7::text IS NULL OR recipient = $7)
  AND ($8::text IS NULL OR sender = $8)
  AND ($9::text IS NULL OR traffic = $9)
  AND ($10::uuid IS NULL OR batch_id = $10)
  AND ($11::text IS NULL OR reference = $11)
ORDER BY id DESC
LIMIT $12

-- name: of_batch
-- The messages of the batch $10, by their own index: OFFSET keeps the planner from the walk, which is longer.
(SELECT * FROM messages WHERE batch_id = $10 OFFSET 0) AS messages

-- name: of_reference
(SELECT * FROM messages WHERE reference = $11) AS messages

-- name: to_recipient
(SELECT * FROM messages WHERE recipient = $7) AS messages
