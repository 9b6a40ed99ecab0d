-- name: add_samples
-- $1 providers, $2 countries, $3 traffic, $4..$9 how often. In the order of the key, so that two processes cannot deadlock.
INSERT INTO health_samples AS s
    (provider, country, traffic, bucket_at, calls, failures, slow, delivered, undelivered, openings)
SELECT i.provider, i.country, i.traffic, date_bin('5 seconds', now(), 'epoch'),
       i.calls, i.failures, i.slow, i.delivered, i.undelivered, i.openings
FROM unnest($1::text[], $2::text[], $3::text[], $4::int[], $5::int[], $6::int[], $7::int[], $8::int[], $9::int[])
  AS i (provider, country, traffic, calls, failures, slow, delivered, undelivered, openings)
ORDER BY i.provider, i.country, i.traffic
ON CONFLICT (provider, country, traffic, bucket_at) DO UPDATE
SET calls = s.calls + excluded.calls,
    failures = s.failures + excluded.failures,
    slow = s.slow + excluded.slow,
    delivered = s.delivered + excluded.delivered,
    undelivered = s.undelivered + excluded.undelivered,
    openings = s.openings + excluded.openings

-- name: take_round
-- Gives the next round to whoever asks first when it is due; to the others nothing.
INSERT INTO pacing AS p (key, tat) VALUES ('health', now() + interval '1 second')
ON CONFLICT (key) DO UPDATE SET tat = excluded.tat WHERE p.tat <= now()
RETURNING key

-- name: standings
SELECT provider, country, traffic, condition, cause, strikes, since,
       extract(epoch FROM now() - since)::float8 AS age_s
FROM health_standings

-- name: evidence
-- Every place that has a standing or samples, with the samples that it is judged by: the newest buckets until they hold $1
-- calls (or receipts), none from before its standing began, and of a standing that is not under trial none older than
-- five minutes. A provider as a whole is judged by its places, but not by those that stand back for reasons of their own.
WITH known AS MATERIALIZED (
    SELECT *, extract(epoch FROM now() - since)::float8 AS age_s, condition IN ('probing', 'recovering') AS on_trial
    FROM health_standings
), recent AS (
    SELECT s.*, k.condition IN ('failing', 'probing') IS TRUE AS stands_back
    FROM health_samples AS s
    LEFT JOIN known AS k USING (provider, country, traffic)
    WHERE s.bucket_at > now() - interval '5 minutes'
       OR s.provider IN (SELECT provider FROM known WHERE on_trial)
), buckets AS (
    SELECT provider, country, traffic, bucket_at, calls, failures, slow, delivered, undelivered, 0::bigint AS openings
    FROM recent
    UNION ALL
    SELECT provider, '*', '*', bucket_at,
           coalesce(sum(calls) FILTER (WHERE NOT stands_back), 0),
           coalesce(sum(failures) FILTER (WHERE NOT stands_back), 0),
           coalesce(sum(slow) FILTER (WHERE NOT stands_back), 0),
           coalesce(sum(delivered) FILTER (WHERE NOT stands_back), 0),
           coalesce(sum(undelivered) FILTER (WHERE NOT stands_back), 0),
           sum(openings)
    FROM recent
    GROUP BY provider, bucket_at
), newest AS (
    SELECT b.*,
           sum(calls) OVER newer - calls < $1 AS call_counts,
           sum(delivered + undelivered) OVER newer - (delivered + undelivered) < $1 AS receipt_counts
    FROM buckets AS b
    LEFT JOIN known AS k USING (provider, country, traffic)
    WHERE b.bucket_at >= CASE WHEN k.on_trial THEN k.since ELSE greatest(k.since, now() - interval '5 minutes') END
    WINDOW newer AS (PARTITION BY provider, country, traffic ORDER BY bucket_at DESC)
), seen AS (
    SELECT provider, country, traffic,
           coalesce(sum(calls) FILTER (WHERE call_counts), 0)::int AS calls,
           coalesce(sum(failures) FILTER (WHERE call_counts), 0)::int AS failures,
           coalesce(sum(slow) FILTER (WHERE call_counts), 0)::int AS slow,
           coalesce(sum(delivered) FILTER (WHERE receipt_counts), 0)::int AS delivered,
           coalesce(sum(undelivered) FILTER (WHERE receipt_counts), 0)::int AS undelivered,
           sum(openings)::int AS openings
    FROM newest
    GROUP BY provider, country, traffic
)
SELECT provider, country, traffic, k.condition, k.cause, k.strikes, k.since, k.age_s,
       coalesce(calls, 0) AS calls, coalesce(failures, 0) AS failures, coalesce(slow, 0) AS slow,
       coalesce(delivered, 0) AS delivered, coalesce(undelivered, 0) AS undelivered, coalesce(openings, 0) AS openings
FROM seen
FULL JOIN known AS k USING (provider, country, traffic)
ORDER BY provider, country, traffic

-- name: move_standings
-- $1 providers, $2 countries, $3 traffic, $4 conditions, $5 causes, $6 strikes.
INSERT INTO health_standings AS t (provider, country, traffic, condition, cause, strikes, since)
SELECT provider, country, traffic, condition, cause, strikes, now()
FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::int[])
  AS i (provider, country, traffic, condition, cause, strikes)
ORDER BY provider, country, traffic
ON CONFLICT (provider, country, traffic) DO UPDATE
SET condition = excluded.condition, cause = excluded.cause, strikes = excluded.strikes,
    since = CASE WHEN t.condition = excluded.condition THEN t.since ELSE excluded.since END

-- name: forget_samples
DELETE FROM health_samples WHERE bucket_at < now() - interval '1 hour'
