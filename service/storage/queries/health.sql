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
-- Every place that has a standing or samples, with the samples that it is judged by: the newest until they are $1 calls (or
-- receipts), none from before its standing began, and of a standing that is not on trial none older than five minutes. The
-- bucket in which it began counts: processes leave out what is older. Every place looks up its buckets by their key, because
-- our plans have no hash joins; they are added up in steps that grow with their age, because sorting all of them takes longer.
WITH places AS (
    SELECT provider, country, traffic FROM health_samples WHERE bucket_at > now() - interval '5 minutes'
    UNION
    SELECT provider, country, traffic FROM health_standings
), floors AS MATERIALIZED (
    SELECT p.provider, p.country, p.traffic, k.condition, k.cause, k.strikes, k.since,
           CASE WHEN k.condition IN ('probing', 'recovering') THEN k.since
                ELSE greatest(k.since, now() - interval '295 seconds') END - interval '5 seconds' AS after_at
    FROM places AS p
    LEFT JOIN health_standings AS k ON (k.provider, k.country, k.traffic) = (p.provider, p.country, p.traffic)
), steps AS (
    SELECT f.*, s.*,
           coalesce(sum(s.calls) OVER newer - s.calls, 0) < $1::int AS calls_wanted,
           coalesce(sum(s.receipts) OVER newer - s.receipts, 0) < $1::int AS receipts_wanted
    FROM floors AS f
    LEFT JOIN LATERAL (
        SELECT width_bucket(bucket_at, (
                   SELECT array_agg(now() - make_interval(secs => age_s) ORDER BY age_s DESC)
                   FROM unnest('{5, 10, 15, 30, 60, 120}'::float8[]) AS age_s
               )) AS step,
               sum(calls) AS calls, sum(failures) AS failures, sum(slow) AS slow, sum(openings) AS openings,
               sum(delivered) AS delivered, sum(undelivered) AS undelivered, sum(delivered + undelivered) AS receipts,
               max(bucket_at) FILTER (WHERE openings > 0) AS opened_at,
               max(bucket_at) FILTER (WHERE calls > failures) AS worked_at
        FROM health_samples
        WHERE (provider, country, traffic) = (f.provider, f.country, f.traffic) AND bucket_at > f.after_at
        GROUP BY step
    ) AS s ON true
    WINDOW newer AS (PARTITION BY f.provider, f.country, f.traffic ORDER BY s.step DESC)
)
SELECT provider, country, traffic, condition, cause, strikes, since,
       extract(epoch FROM now() - since)::float8 AS age_s,
       coalesce(max(opened_at) >= coalesce(max(worked_at), '-infinity'), false) AS cut_off,
       coalesce(sum(calls) FILTER (WHERE calls_wanted), 0)::int AS calls,
       coalesce(sum(failures) FILTER (WHERE calls_wanted), 0)::int AS failures,
       coalesce(sum(slow) FILTER (WHERE calls_wanted), 0)::int AS slow,
       coalesce(sum(delivered) FILTER (WHERE receipts_wanted), 0)::int AS delivered,
       coalesce(sum(undelivered) FILTER (WHERE receipts_wanted), 0)::int AS undelivered,
       coalesce(sum(openings) FILTER (WHERE calls_wanted), 0)::int AS openings
FROM steps
GROUP BY provider, country, traffic, condition, cause, strikes, since
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
