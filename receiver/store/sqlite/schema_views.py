"""The views, for whoever reads the database by themselves: each is as a numbered step of `schema` made it."""

NOW = "strftime('%Y-%m-%dT%H:%M:%fZ', 'now')"

VIEWS = f"""
CREATE VIEW overdue_jobs AS
  SELECT source, job_id, modality, deadline_at, submitted_at, registered_at, polls, last_error, provider_status
  FROM jobs WHERE state = 'pending' AND deadline_at < {NOW};
CREATE VIEW rescued_jobs AS
  SELECT source, job_id, modality, state, reason, settled_at, polls, submitted_at, registered_at
  FROM jobs WHERE decided_by = 'poll' AND (reason IS NULL OR reason IN ('provider', 'cancelled'));
CREATE VIEW held_deliveries AS
  SELECT id, source, received_at, job_id, event, CAST(body AS TEXT) AS body_text FROM deliveries WHERE verdict = 'held';
CREATE VIEW quarantined_deliveries AS
  SELECT id, source, received_at, reason, job_id, event, CAST(body AS TEXT) AS body_text
  FROM deliveries WHERE verdict = 'quarantined';
CREATE VIEW dead_messages AS
  SELECT id, source, job_id, type, created_at, attempts, last_error, payload FROM outbox WHERE state = 'dead';
CREATE VIEW hourly_stats AS
  SELECT substr(received_at, 1, 13) || ':00:00.000Z' AS bucket_start, source, verdict, count(*) AS count
  FROM deliveries GROUP BY 1, 2, 3
  UNION ALL SELECT substr(bucket_start, 1, 13) || ':00:00.000Z', source, 'refused', sum(n) FROM refusals GROUP BY 1, 2;
CREATE VIEW source_health AS
  SELECT names.source,
    (SELECT n FROM tallies WHERE kind = 'jobs' AND tallies.source = names.source AND state = 'pending') AS pending,
    (SELECT min(registered_at) FROM jobs WHERE jobs.source = names.source AND state = 'pending') AS oldest_pending_at,
    (SELECT n FROM tallies WHERE kind = 'settled' AND tallies.source = names.source AND state = 'webhook')
      AS settled_by_webhook,
    (SELECT n FROM tallies WHERE kind = 'settled' AND tallies.source = names.source AND state = 'poll')
      AS settled_by_poll,
    (SELECT n FROM tallies WHERE kind = 'settled' AND tallies.source = names.source AND state = 'deadline')
      AS settled_by_deadline,
    (SELECT count(*) FROM deliveries WHERE deliveries.source = names.source AND verdict = 'held') AS held,
    state.paused, state.fail_streak, state.open_until, state.not_before, state.asked_at, state.answered_at,
    state.last_outcome, state.last_error
  FROM (SELECT DISTINCT source FROM tallies WHERE kind IN ('jobs', 'deliveries')
        UNION SELECT name FROM source_state) AS names
  LEFT JOIN source_state AS state ON state.name = names.source;
"""

# Bytes that are no UTF-8 make many readers fail on the whole row, so they have no text; the body itself is beside it.
# A job whose webhook came and was verified by asking was not rescued: a delivery of its own stands before its end.
PLAINER_VIEWS = """
DROP VIEW quarantined_deliveries;
CREATE VIEW quarantined_deliveries AS
  SELECT id, source, received_at, reason, job_id, event,
    CASE WHEN reason NOT IN ('bad UTF-8', 'damaged') THEN CAST(body AS TEXT) END AS body_text
  FROM deliveries WHERE verdict = 'quarantined';
DROP VIEW rescued_jobs;
CREATE VIEW rescued_jobs AS
  SELECT source, job_id, modality, state, reason, settled_at, polls, submitted_at, registered_at
  FROM jobs WHERE decided_by = 'poll' AND (reason IS NULL OR reason IN ('provider', 'cancelled'))
    AND NOT EXISTS (
      SELECT 1 FROM deliveries AS heard WHERE heard.source = jobs.source AND heard.job_id IN (jobs.job_id, jobs.alias)
        AND heard.verdict = 'accepted' AND heard.received_at <= jobs.settled_at);
"""
