-- name: screen
-- Is a number suppressed for a client, and what does the HLR cache say? $1 number, $2 client.
SELECT EXISTS (
           SELECT FROM suppressions AS s
           WHERE s.number = $1 AND (s.client_id IS NULL OR s.client_id = $2)
       ) AS suppressed,
       h.number, h.status, h.checked_at, h.source, h.mcc, h.mnc, h.network, h.line_type, h.ported, h.roaming,
       h.error_code
FROM (SELECT) AS one
LEFT JOIN hlr_results AS h ON h.number = $1 AND h.expires_at > now()

-- name: hlr
-- A cached result that is alive and no older than $2.
SELECT number, status, checked_at, source, mcc, mnc, network, line_type, ported, roaming, error_code
FROM hlr_results
WHERE number = $1 AND expires_at > now() AND ($2::interval IS NULL OR checked_at >= now() - $2::interval)

-- name: keep_hlr
INSERT INTO hlr_results AS h (number, status, checked_at, source, mcc, mnc, network, line_type, ported, roaming,
                              error_code, expires_at)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, now() + $12::interval)
ON CONFLICT (number) DO UPDATE
SET status = EXCLUDED.status, checked_at = EXCLUDED.checked_at, source = EXCLUDED.source, mcc = EXCLUDED.mcc,
    mnc = EXCLUDED.mnc, network = EXCLUDED.network, line_type = EXCLUDED.line_type, ported = EXCLUDED.ported,
    roaming = EXCLUDED.roaming, error_code = EXCLUDED.error_code, expires_at = EXCLUDED.expires_at
