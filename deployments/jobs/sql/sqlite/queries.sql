-- name: request_by_id
SELECT id, fingerprint FROM request WHERE id = :id

-- name: request_by_idempotency_key
SELECT id, fingerprint FROM request
WHERE key_id = :key_id AND idempotency_key = :idempotency_key

-- name: depth (of the queue, and of its part that comes before a newcomer of this priority)
SELECT coalesce(sum(queued), 0), coalesce(sum(iif(priority <= :priority, queued, 0)), 0) FROM depth

-- name: insert_request
INSERT INTO request (
    id, key_id, path, base_url, priority, start_by, max_attempts, webhook_url, idempotency_key,
    fingerprint, keeps_input, files_ttl_s, created_at, logs, trace
) VALUES (
    :id, :key_id, :path, :base_url, :priority, :start_by, :max_attempts, :webhook_url,
    :idempotency_key, :fingerprint, :keeps_input, :files_ttl_s, :now, :logs, :trace
)

-- name: insert_input
INSERT INTO input (seq, json) VALUES (:seq, :json)

-- name: forget_input
DELETE FROM input WHERE seq = :seq

-- name: claimable (in order, and of each key no more than its limit allows)
-- `waiting` hops from key to key, and `picked` merges the queues of the keys from their heads on:
-- the queue of a key without a free slot is never read. Places are not compared as
-- (priority, seq) > (?, ?), for which SQLite would search the index for the priority only.
WITH RECURSIVE
waiting (key_id) AS (
    SELECT min(key_id) FROM request WHERE state = 'queued'
    UNION ALL
    SELECT (SELECT min(key_id) FROM request WHERE state = 'queued' AND key_id > waiting.key_id)
    FROM waiting
    WHERE waiting.key_id IS NOT NULL
),
slots (key_id, free) AS (
    SELECT waiting.key_id, iif(
        concurrency IS NULL,
        NULL,
        concurrency
        - (SELECT count(*) FROM request WHERE state = 'running' AND key_id = waiting.key_id)
        - (SELECT count(*) FROM slot WHERE slot.key_id = waiting.key_id AND until > :now)
    )
    FROM waiting LEFT JOIN api_key ON api_key.id = waiting.key_id
    WHERE waiting.key_id IS NOT NULL
),
picked (seq, priority, key_id, free) AS (
    SELECT head.seq, head.priority, slots.key_id, slots.free
    FROM slots CROSS JOIN request AS head ON head.seq = (
        SELECT seq FROM request
        WHERE state = 'queued' AND key_id = slots.key_id
            AND not_before <= :now AND (start_by IS NULL OR start_by > :now OR attempts > 0)
        ORDER BY priority, seq
        LIMIT 1
    )
    WHERE slots.free IS NULL OR slots.free > 0
    UNION ALL
    SELECT next.seq, next.priority, picked.key_id, picked.free - 1
    FROM picked CROSS JOIN request AS next ON next.seq = coalesce((
        SELECT seq FROM request
        WHERE state = 'queued' AND key_id = picked.key_id
            AND priority = picked.priority AND seq > picked.seq
            AND not_before <= :now AND (start_by IS NULL OR start_by > :now OR attempts > 0)
        ORDER BY seq
        LIMIT 1
    ), (
        SELECT seq FROM request
        WHERE state = 'queued' AND key_id = picked.key_id
            AND priority > picked.priority
            AND not_before <= :now AND (start_by IS NULL OR start_by > :now OR attempts > 0)
        ORDER BY priority, seq
        LIMIT 1
    ))
    WHERE picked.free IS NULL OR picked.free > 1
    ORDER BY 2, 1
    LIMIT :limit
)
SELECT request.seq, request.attempts, request.created_at
FROM picked CROSS JOIN request ON request.seq = picked.seq
ORDER BY picked.priority, picked.seq

-- name: take
UPDATE request
SET state = 'running', attempts = attempts + 1, token = token + 1, owner = :owner,
    lease_until = :lease_until, logs = logs || :logs
WHERE seq = :seq
RETURNING id, token, attempts, key_id, path, base_url, priority, files_ttl_s, created_at, trace,
    (SELECT json FROM input WHERE input.seq = request.seq) AS input

-- name: extend
UPDATE request SET lease_until = :lease_until
WHERE id = :id AND token = :token AND state = 'running'
RETURNING cancel_asked

-- name: held (the request on which this is the latest lease)
SELECT seq, id, key_id, path, webhook_url, keeps_input, attempts, max_attempts, cancel_asked,
    token, trace
FROM request
WHERE id = :id AND token = :token AND state = 'running'

-- name: end
UPDATE request
SET state = :state, owner = NULL, lease_until = NULL, ended_at = :now, expires_at = :expires_at,
    status = :status, body = :body, headers = :headers, error = :error, error_type = :error_type,
    inference_s = :inference_s, num_tokens = :num_tokens, truncated = :truncated, files = :files,
    logs = logs || :logs
WHERE seq = :seq

-- name: requeue
UPDATE request
SET state = 'queued', owner = NULL, lease_until = NULL, not_before = :not_before,
    attempts = :attempts, token = :token, logs = logs || :logs
WHERE seq = :seq

-- name: ask_to_cancel
UPDATE request SET cancel_asked = 1, logs = logs || :logs WHERE seq = :seq

-- name: of_key
SELECT seq, id, key_id, path, state, webhook_url, keeps_input, cancel_asked, trace
FROM request
WHERE id = :id AND key_id = :key_id

-- name: lost
SELECT seq, id, key_id, path, webhook_url, keeps_input, attempts, max_attempts, cancel_asked,
    token, trace
FROM request
WHERE state = 'running' AND lease_until <= :now
ORDER BY lease_until
LIMIT :limit

-- name: not_started
SELECT seq, id, key_id, path, webhook_url, keeps_input, trace
FROM request
WHERE state = 'queued' AND start_by IS NOT NULL AND start_by <= :now AND attempts = 0
ORDER BY start_by
LIMIT :limit

-- name: expired
SELECT seq, files FROM request
WHERE expires_at IS NOT NULL AND expires_at <= :now
    AND NOT EXISTS (SELECT 1 FROM webhook WHERE webhook.id = request.id AND state = 'pending')
ORDER BY expires_at
LIMIT :limit

-- name: forget
DELETE FROM request WHERE seq = :seq

-- name: forget_webhooks
DELETE FROM webhook WHERE seq IN (
    SELECT seq FROM webhook WHERE state <> 'pending' AND created_at <= :until LIMIT :limit
)

-- name: forget_keys
DELETE FROM api_key WHERE revoked_at <= :until

-- name: forget_slots
DELETE FROM slot WHERE until <= :now

-- name: forget_rates
DELETE FROM pace WHERE due <= :now

-- name: status
SELECT id, path, state, logs, headers, error, error_type, inference_s, num_tokens, truncated
FROM request
WHERE id = :id AND key_id = :key_id

-- name: result
SELECT state, status, body, headers FROM request WHERE id = :id AND key_id = :key_id

-- name: position
SELECT min(:cap, (
    SELECT count(*) FROM (
        SELECT 1 FROM request AS other
        WHERE other.state = 'queued' AND other.priority < request.priority
        LIMIT :cap
    )
) + (
    SELECT count(*) FROM (
        SELECT 1 FROM request AS other
        WHERE other.state = 'queued' AND other.priority = request.priority
            AND other.seq < request.seq
        LIMIT :cap
    )
)) AS ahead
FROM request
WHERE id = :id AND state = 'queued'

-- name: insert_webhook
INSERT INTO webhook (id, key_id, url, body, state, attempts, token, next_at, created_at, trace)
VALUES (:id, :key_id, :url, :body, :state, :attempts, :token, :next_at, :created_at, :trace)
ON CONFLICT (id) DO NOTHING

-- name: due_webhooks
SELECT seq FROM webhook
WHERE state = 'pending' AND next_at <= :now
ORDER BY next_at, seq
LIMIT :limit

-- name: claim_webhook
UPDATE webhook SET attempts = attempts + 1, token = token + 1, next_at = :lease_until
WHERE seq = :seq
RETURNING id, key_id, url, body, state, attempts, token, next_at, created_at, last_status,
    last_error, trace

-- name: record_delivery
UPDATE webhook
SET state = :state, last_status = :status, last_error = :error,
    next_at = coalesce(:next_at, next_at)
WHERE id = :id AND token = :token AND state = 'pending'

-- name: webhooks
SELECT id, key_id, url, body, state, attempts, token, next_at, created_at, last_status, last_error,
    trace
FROM webhook
WHERE :state IS NULL OR state = :state
ORDER BY seq DESC
LIMIT :limit

-- name: retry_webhook (a new token, so that a delivery under way cannot record its result)
UPDATE webhook SET state = 'pending', attempts = 0, token = token + 1, next_at = :now
WHERE id = :id AND state <> 'pending'

-- name: signing_keys
SELECT kid, x, state, changed_at FROM signing_key
ORDER BY CASE state WHEN 'active' THEN 0 WHEN 'next' THEN 1 ELSE 2 END, changed_at DESC, rowid

-- name: put_signing_key
INSERT INTO signing_key (kid, x, state, changed_at) VALUES (:kid, :x, :state, :now)
ON CONFLICT (kid) DO UPDATE
SET x = excluded.x, state = excluded.state,
    changed_at = iif(state = excluded.state, changed_at, excluded.changed_at)

-- name: add_key
INSERT INTO api_key (
    id, hash, name, concurrency, rate, created_at, expires_at, revoked_at, adapter
)
VALUES (
    :id, :hash, :name, :concurrency, :rate, :created_at, :expires_at, :revoked_at, :adapter
)

-- name: key_by_hash
SELECT id, hash, name, concurrency, rate, created_at, expires_at, revoked_at, adapter
FROM api_key
WHERE hash = :hash

-- name: keys
SELECT id, hash, name, concurrency, rate, created_at, expires_at, revoked_at, adapter
FROM api_key
ORDER BY seq

-- name: revoke_key
UPDATE api_key SET revoked_at = :now WHERE id = :id AND revoked_at IS NULL

-- name: replace_key_hash
UPDATE api_key SET hash = :hash WHERE id = :id AND revoked_at IS NULL

-- name: rate_due
SELECT due FROM pace WHERE key_id = :key_id

-- name: put_rate_due
INSERT INTO pace (key_id, due) VALUES (:key_id, :due)
ON CONFLICT (key_id) DO UPDATE SET due = excluded.due

-- name: release_slot
DELETE FROM slot WHERE run_id = :run_id

-- name: is_slot_free (a key that is not stored has no bound)
SELECT NOT EXISTS (
    SELECT 1 FROM api_key
    WHERE id = :key_id AND concurrency
        <= (SELECT count(*) FROM request WHERE state = 'running' AND key_id = :key_id)
        + (SELECT count(*) FROM slot WHERE key_id = :key_id AND until > :now)
)

-- name: acquire_slot
INSERT INTO slot (run_id, key_id, until) VALUES (:run_id, :key_id, :until)

-- name: add_usage
INSERT INTO usage (key_id, day, path, requests, images, model_s)
VALUES (:key_id, :day, :path, :requests, :images, :model_s)
ON CONFLICT (day, key_id, path) DO UPDATE
SET requests = requests + excluded.requests, images = images + excluded.images,
    model_s = model_s + excluded.model_s

-- name: usage
SELECT key_id, day, path, requests, images, model_s FROM usage
WHERE day >= :since_day AND (:key_id IS NULL OR key_id = :key_id)
ORDER BY day, key_id, path

-- name: add_secret
INSERT INTO secret (name, value) VALUES (:name, :value) ON CONFLICT (name) DO NOTHING

-- name: secret
SELECT value FROM secret WHERE name = :name

-- name: stats (what is counted is walked along an index, up to the cap)
SELECT
    (SELECT min(coalesce(sum(queued), 0), :cap) FROM depth) AS queued,
    (SELECT count(*) FROM (SELECT 1 FROM request WHERE state = 'running' LIMIT :cap)) AS running,
    (SELECT count(*) FROM (SELECT 1 FROM webhook WHERE state = 'pending' LIMIT :cap)) AS pending,
    (SELECT count(*) FROM (SELECT 1 FROM webhook WHERE state = 'delivered' LIMIT :cap))
        AS delivered,
    (SELECT count(*) FROM (SELECT 1 FROM webhook WHERE state = 'dead' LIMIT :cap)) AS dead,
    max(0.0, :now - coalesce((SELECT min(next_at) FROM webhook WHERE state = 'pending'), :now))
        AS overdue_s,
    (SELECT page_count * page_size FROM pragma_page_count, pragma_page_size) AS size_bytes,
    (SELECT file FROM pragma_database_list WHERE name = 'main') AS file

-- name: busiest_keys
SELECT key_id, count(*) AS running
FROM (
    SELECT key_id FROM request WHERE state = 'running'
    UNION ALL
    SELECT key_id FROM slot WHERE until > :now
)
GROUP BY key_id ORDER BY running DESC, key_id LIMIT :limit
