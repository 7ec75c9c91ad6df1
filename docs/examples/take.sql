-- Taking messages from the file, for whoever cannot speak HTTP. Each statement is a transaction of its own; between
-- them nothing is held, so that the sidecar goes on writing. Needs SQLite 3.51.3 or later.

-- 1. Claim up to ten, for a minute. Nobody else gets them until then, whether it claims by SQL or by the API; at most
--    one of each job, so that the outcomes of one job are handled in order.
UPDATE outbox
SET leased_until = strftime('%Y-%m-%dT%H:%M:%fZ', 'now', '+60 seconds')
WHERE id IN (
  SELECT id FROM outbox AS it
  WHERE state = 'pending'
    AND (leased_until IS NULL OR leased_until <= strftime('%Y-%m-%dT%H:%M:%fZ', 'now'))
    AND NOT EXISTS (SELECT 1 FROM outbox AS earlier WHERE earlier.state = 'pending'
                    AND earlier.source = it.source AND earlier.job_id = it.job_id AND earlier.seq < it.seq)
  ORDER BY seq LIMIT 10)
RETURNING id, type, json_extract(payload, '$.data.job_id'), json_extract(payload, '$.data.result');

-- 2. Handle them. Then, for each:
UPDATE outbox
SET state = 'delivered', delivered_at = strftime('%Y-%m-%dT%H:%M:%fZ', 'now'), leased_until = NULL
WHERE id = :id AND state = 'pending';
