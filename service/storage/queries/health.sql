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
-- bucket in which it began counts: processes leave out what is older. A provider as a whole is judged by its places, but not
-- by those that stand back for reasons of their own, and by its newest $2 calls: of a step that holds more, by that part.
-- Every place looks up its buckets by their key, because our plans have no hash joins; they are added up in steps that grow
-- with their age, because sorting all of them takes longer.
WITH standings AS NOT MATERIALIZED (
    SELECT *, condition IN ('failing', 'probing') AS stands_back,
           CASE WHEN condition IN ('probing', 'recovering') THEN since
                ELSE greatest(since, now() - interval '295 seconds') END - interval '5 seconds' AS after_at
    FROM health_standings
), places AS (
    SELECT DISTINCT provider, country, traffic FROM health_samples WHERE bucket_at > now() - interval '5 minutes'
    UNION
    SELECT provider, country, traffic FROM health_standings
    UNION -- a provider's long trial is one of its quiet places too; what is added to bucket_at keeps to the provider's index
    SELECT s.provider, s.country, s.traffic
    FROM standings AS w
    JOIN health_samples AS s ON s.provider = w.provider AND s.bucket_at + interval '5 seconds' > w.since
    WHERE w.country = '*' AND w.after_at < now() - interval '5 minutes'
), floors AS MATERIALIZED (
    SELECT p.provider, p.country, p.traffic, coalesce(k.stands_back, false) AS stands_back,
           coalesce(k.after_at, now() - interval '5 minutes') AS after_at,
           coalesce(w.after_at, now() - interval '5 minutes') AS whole_after_at,
           least(coalesce(k.after_at, now() - interval '5 minutes'), w.after_at) AS any_after_at
    FROM places AS p
    LEFT JOIN standings AS k ON (k.provider, k.country, k.traffic) = (p.provider, p.country, p.traffic)
    LEFT JOIN standings AS w ON (w.provider, w.country, w.traffic) = (p.provider, '*', '*')
), sums AS MATERIALIZED (
    SELECT f.provider, f.country, f.traffic, f.stands_back, s.*
    FROM floors AS f
    CROSS JOIN LATERAL (
        SELECT bucket_at > f.after_at AS of_place, bucket_at > f.whole_after_at AS of_whole,
               width_bucket(bucket_at, (
                   SELECT array_agg(now() - make_interval(secs => age_s) ORDER BY age_s DESC)
                   FROM unnest('{5, 10, 15, 30, 60, 120}'::float8[]) AS age_s
               )) AS step,
               sum(calls) AS calls, sum(failures) AS failures, sum(slow) AS slow,
               sum(delivered) AS delivered, sum(undelivered) AS undelivered, sum(openings) AS openings
        FROM health_samples
        WHERE (provider, country, traffic) = (f.provider, f.country, f.traffic) AND bucket_at > f.any_after_at
        GROUP BY of_place, of_whole, step
    ) AS s
), steps AS (
    SELECT provider, country, traffic, step, $1::int AS wanted, calls, failures, slow, delivered, undelivered, 0 AS openings
    FROM sums
    WHERE of_place
    UNION ALL
    SELECT provider, '*', '*', step, $2::int,
           coalesce(sum(calls) FILTER (WHERE NOT stands_back), 0),
           coalesce(sum(failures) FILTER (WHERE NOT stands_back), 0),
           coalesce(sum(slow) FILTER (WHERE NOT stands_back), 0),
           coalesce(sum(delivered) FILTER (WHERE NOT stands_back), 0),
           coalesce(sum(undelivered) FILTER (WHERE NOT stands_back), 0),
           sum(openings)
    FROM sums
    WHERE of_whole
    GROUP BY provider, step
    UNION ALL -- a standing without samples
    SELECT provider, country, traffic, -1, 0, 0, 0, 0, 0, 0, 0 FROM health_standings
), newest AS (
    SELECT *,
           greatest(wanted - (sum(calls) OVER newer - calls), 0) AS calls_wanted,
           sum(delivered + undelivered) OVER newer - (delivered + undelivered) < wanted AS receipts_wanted
    FROM steps
    WINDOW newer AS (PARTITION BY provider, country, traffic ORDER BY step DESC)
), parts AS (
    SELECT *, CASE WHEN calls_wanted = 0 THEN 0 WHEN country = '*' AND calls > calls_wanted THEN calls_wanted / calls
                   ELSE 1 END AS part
    FROM newest
), seen AS (
    SELECT provider, country, traffic,
           round(sum(calls * part))::int AS calls,
           round(sum(failures * part))::int AS failures,
           round(sum(slow * part))::int AS slow,
           coalesce(sum(delivered) FILTER (WHERE receipts_wanted), 0)::int AS delivered,
           coalesce(sum(undelivered) FILTER (WHERE receipts_wanted), 0)::int AS undelivered,
           coalesce(sum(openings) FILTER (WHERE part > 0), 0)::int AS openings
    FROM parts
    GROUP BY provider, country, traffic
)
SELECT provider, country, traffic, k.condition, k.cause, k.strikes, k.since,
       extract(epoch FROM now() - k.since)::float8 AS age_s,
       s.calls, s.failures, s.slow, s.delivered, s.undelivered, s.openings
FROM seen AS s
LEFT JOIN health_standings AS k USING (provider, country, traffic)
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
