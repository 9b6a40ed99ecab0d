-- name: present
SELECT pg_current_snapshot()::text

-- name: changed
-- What transactions changed that the snapshot $1 did not see, and the present snapshot, for the next reading. Where nothing
-- has changed one row comes, with the snapshot only. From behind the transaction $2 and the row $3 on: first the oldest
-- transaction that ran at $1. $4 how many. The rows are a query with the columns id, key, changed_xid and ended.
-- A transaction that is still to come here was one of another server, whose dump brought the row: a full pass reads it.
SELECT s.now::text AS snapshot, r.*
FROM (SELECT pg_current_snapshot() AS now) AS s
LEFT JOIN LATERAL (
    SELECT *
    FROM ({rows}) AS t
    WHERE (changed_xid, id) > ($2, $3) AND changed_xid < pg_snapshot_xmax(s.now)
      AND NOT pg_visible_in_snapshot(changed_xid, $1::text::pg_snapshot)
    ORDER BY changed_xid, id
    LIMIT $4
) AS r ON true
ORDER BY r.changed_xid, r.id

-- name: page
-- Living rows from behind the id $1 on. $2 how many.
SELECT * FROM ({rows}) AS t WHERE id > $1 AND NOT ended ORDER BY id LIMIT $2

-- name: by_key
SELECT * FROM ({rows}) AS t WHERE key = ANY ($1) AND NOT ended
