-- name: ensure
INSERT INTO pacing (key, tat) SELECT k, now() FROM unnest($1::text[]) AS k ON CONFLICT DO NOTHING

-- name: lock
SELECT key, tat, clock_timestamp() AS now FROM pacing WHERE key = ANY ($1) ORDER BY key FOR UPDATE

-- name: store
UPDATE pacing AS p SET tat = i.tat FROM unnest($1::text[], $2::timestamptz[]) AS i (key, tat) WHERE p.key = i.key

-- name: reserve
-- Reserves slots by GCRA without a burst. They draw on several keys; the slowest of them sets the spacing.
-- One statement, because an OTP waits for whoever holds the rows, and is not to wait for the other's round trips too.
-- $1 keys, $2 the seconds between two slots of each, $3 how many are wanted, $4 how far ahead in seconds they may lie (and
-- a microsecond, or a slot that is due now would look not yet due), $5 how many seconds before its time a slot may be used.
-- Returns nothing where a key has no row yet.
WITH locked AS MATERIALIZED (
    SELECT p.key, p.tat, i.interval_s
    FROM unnest($1::text[], $2::float8[]) AS i (key, interval_s)
    JOIN pacing AS p USING (key)
    ORDER BY p.key
    FOR UPDATE OF p
), held AS MATERIALIZED (  -- the time is read when the last row is locked
    SELECT clock_timestamp() AS now, max(tat) AS tat, max(interval_s) AS spacing_s
    FROM locked
    HAVING count(*) = cardinality($1)
), free AS (
    SELECT now, spacing_s, greatest(extract(epoch FROM tat - now)::float8 - $5, 0) AS first_s FROM held
), slots AS MATERIALIZED (
    SELECT *, floor(greatest(0, least($3::int, ($4::float8 + 1e-6 - first_s) / spacing_s + 1)))::int AS reserved FROM free
), stored AS (
    UPDATE pacing AS p
    SET tat = greatest(l.tat, s.now) + make_interval(secs => s.reserved * l.interval_s)
    FROM locked AS l
    CROSS JOIN slots AS s
    WHERE p.key = l.key AND s.reserved > 0
)
SELECT first_s, spacing_s, reserved FROM slots
