-- Each statement stands under its name. Parameters come as arrays where many rows are meant.
-- Rows are locked in the order of their ids, so that no two transactions wait for each other.

-- ---------------------------------------------------------------------- the whole store

-- name: now
SELECT store_now();

-- name: lock
-- Held to the end of the transaction. A transaction that waited for it sees, in its next
-- statement, all that those before it have written.
SELECT store_now() FROM pg_advisory_xact_lock(hashtext(current_schema()), $1);

-- name: transaction_status
SELECT pg_xact_status($1::text::xid8);

-- name: secret
INSERT INTO secret (name, value) VALUES ($1, $2)
ON CONFLICT (name) DO UPDATE SET value = secret.value
RETURNING value;

-- ------------------------------------------------------------------------------- submit

-- name: submit
-- `ahead` counts those that were queued before this statement.
WITH clock AS MATERIALIZED (SELECT store_now() AS now),
ahead AS MATERIALIZED (
    SELECT priority, (
        SELECT count(*) FROM (
            SELECT FROM request WHERE state = 'queued' AND request.priority <= given.priority
            ORDER BY request.priority, seq LIMIT $18
        ) AS capped
    ) AS ahead
    FROM unnest($17::integer[]) AS given (priority)
),
added AS (
    INSERT INTO request (
        id, key_id, path, input, base_url, priority, start_by, max_attempts, webhook_url,
        idempotency_key, files_ttl_s, keeps_input, fingerprint, trace, created_at, logs
    )
    SELECT
        id, key_id, path, input, base_url, priority, now + start_timeout_s, max_attempts,
        webhook_url, idempotency_key, files_ttl_s, keeps_input, fingerprint, trace, now,
        $15 || now || $16
    FROM clock, unnest(
        $1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::integer[], $7::float8[],
        $8::integer[], $9::text[], $10::text[], $11::float8[], $12::integer[], $13::text[],
        $14::text[]
    ) WITH ORDINALITY AS given (
        id, key_id, path, input, base_url, priority, start_timeout_s, max_attempts, webhook_url,
        idempotency_key, files_ttl_s, keeps_input, fingerprint, trace, nth
    )
    ORDER BY nth
    ON CONFLICT DO NOTHING
    RETURNING id, priority, seq
)
SELECT id, added.priority, ahead FROM added JOIN ahead USING (priority) ORDER BY seq;

-- name: repeated
-- The requests that stand in the way of new ones: of the same id, else of the same key.
SELECT nth, known.id, by_id, fingerprint, CASE WHEN state = 'queued' THEN (
    SELECT count(*) FROM (
        SELECT FROM request AS other
        WHERE other.state = 'queued' AND (other.priority, other.seq) < (known.priority, known.seq)
        ORDER BY other.priority, other.seq LIMIT $4
    ) AS capped
) ELSE 0 END AS position
FROM unnest($1::text[], $2::text[], $3::text[]) WITH ORDINALITY
    AS given (id, key_id, idempotency_key, nth)
CROSS JOIN LATERAL (
    SELECT request.*, true AS by_id FROM request WHERE request.id = given.id
    UNION ALL
    SELECT request.*, false AS by_id FROM request
    WHERE request.key_id = given.key_id AND request.idempotency_key = given.idempotency_key
    ORDER BY by_id DESC LIMIT 1
) AS known;

-- name: depth
SELECT count(*) FROM (SELECT FROM request WHERE state = 'queued' LIMIT $1) AS capped;

-- -------------------------------------------------------------------------------- claim

-- name: first
-- The first jobs of the queue that may be claimed, in order; the first one of each key has the
-- number of the key's free slots.
SELECT id, key_id, attempts, created_at, CASE WHEN nth = 1 THEN (
    SELECT concurrency
        - (SELECT count(*) FROM request WHERE state = 'running' AND request.key_id = api_key.id)
        - (SELECT count(*) FROM slot WHERE slot.key_id = api_key.id AND until > $1)
    FROM api_key WHERE api_key.id = waiting_head.key_id AND concurrency IS NOT NULL
) END AS free
FROM (
    SELECT *, row_number() OVER (PARTITION BY key_id ORDER BY priority, seq) AS nth
    FROM (
        SELECT id, key_id, attempts, created_at, priority, seq FROM request
        WHERE state = 'queued' AND not_before <= $1
            AND (attempts > 0 OR start_by IS NULL OR start_by > $1)
        ORDER BY priority, seq LIMIT $2
    ) AS head
) AS waiting_head
ORDER BY priority, seq;

-- name: first_by_key
-- The same, without the jobs of keys that have no free slot: from key to key through the index.
-- Only those keys can have one among the first $2 whose own first is among the first $2.
WITH RECURSIVE holder AS (
    (SELECT key_id FROM request WHERE state = 'queued' ORDER BY key_id LIMIT 1)
    UNION ALL
    SELECT (
        SELECT key_id FROM request WHERE state = 'queued' AND request.key_id > holder.key_id
        ORDER BY key_id LIMIT 1
    ) FROM holder WHERE key_id IS NOT NULL
),
waiting AS MATERIALIZED (
    SELECT key_id, (
        SELECT concurrency
            - (SELECT count(*) FROM request WHERE state = 'running' AND request.key_id = api_key.id)
            - (SELECT count(*) FROM slot WHERE slot.key_id = api_key.id AND until > $1)
        FROM api_key WHERE api_key.id = holder.key_id AND concurrency IS NOT NULL
    ) AS free
    FROM holder WHERE key_id IS NOT NULL
),
first AS MATERIALIZED (
    SELECT waiting.key_id, free FROM waiting
    CROSS JOIN LATERAL (
        SELECT priority, seq FROM request
        WHERE state = 'queued' AND request.key_id = waiting.key_id AND not_before <= $1
            AND (attempts > 0 OR start_by IS NULL OR start_by > $1)
        ORDER BY request.key_id, priority, seq LIMIT 1
    ) AS own
    WHERE free IS NULL OR free > 0
    ORDER BY priority, seq LIMIT $2
)
SELECT id, first.key_id, attempts, created_at, free FROM first
CROSS JOIN LATERAL (
    SELECT id, attempts, created_at, priority, seq FROM request
    WHERE state = 'queued' AND request.key_id = first.key_id AND not_before <= $1
        AND (attempts > 0 OR start_by IS NULL OR start_by > $1)
    ORDER BY request.key_id, priority, seq LIMIT least($2, free)
) AS own
ORDER BY priority, seq LIMIT $2;

-- name: take
WITH free AS MATERIALIZED (
    SELECT request.id, line FROM unnest($1::text[], $2::text[]) AS given (id, line)
    JOIN request ON request.id = given.id WHERE state = 'queued'
    FOR UPDATE OF request SKIP LOCKED
)
UPDATE request SET
    state = 'running', attempts = attempts + 1, token = token + 1, owner = $3,
    lease_until = $4::float8 + $5::float8, logs = logs || line
FROM free WHERE request.id = free.id
RETURNING
    request.id, token, attempts, key_id, path, input, base_url, priority, files_ttl_s, created_at,
    trace;

-- name: heartbeat
WITH held AS MATERIALIZED (
    SELECT request.id FROM unnest($1::text[], $2::bigint[]) AS given (id, token)
    JOIN request ON request.id = given.id
    WHERE state = 'running' AND request.token = given.token
    ORDER BY request.id FOR UPDATE OF request
)
UPDATE request SET lease_until = (SELECT store_now()) + $3::float8
FROM held WHERE request.id = held.id
RETURNING request.id, token, cancel_asked;

-- --------------------------------------------------------------------------------- ends

-- name: held
SELECT
    request.id, key_id, path, state, attempts, max_attempts, request.token, cancel_asked, keeps_input,
    webhook_url, trace, (SELECT store_now()) AS now
FROM unnest($1::text[], $2::bigint[]) AS given (id, token)
JOIN request ON request.id = given.id
WHERE state = 'running' AND request.token = given.token
ORDER BY request.id FOR UPDATE OF request;

-- name: locked
SELECT
    id, key_id, path, state, attempts, max_attempts, token, cancel_asked, keeps_input,
    webhook_url, trace, (SELECT store_now()) AS now
FROM request WHERE id = $1 AND key_id = $2 FOR UPDATE;

-- name: lost
SELECT
    id, key_id, path, state, attempts, max_attempts, token, cancel_asked, keeps_input,
    webhook_url, trace, (SELECT store_now()) AS now
FROM request
WHERE state = 'running' AND lease_until <= (SELECT store_now())
ORDER BY seq LIMIT $1 FOR UPDATE SKIP LOCKED;

-- name: not_started
SELECT
    id, key_id, path, state, attempts, max_attempts, token, cancel_asked, keeps_input,
    webhook_url, trace, (SELECT store_now()) AS now
FROM request
WHERE state = 'queued' AND attempts = 0 AND start_by <= (SELECT store_now())
ORDER BY start_by LIMIT $1 FOR UPDATE SKIP LOCKED;

-- name: end
UPDATE request SET
    state = given.state, owner = NULL, lease_until = NULL, ended_at = $1::float8,
    expires_at = given.expires_at, status = given.status, body = given.body,
    headers = given.headers, error = given.error, error_type = given.error_type,
    inference_s = given.inference_s, num_tokens = given.num_tokens, truncated = given.truncated,
    files = given.files, logs = logs || lines,
    input = CASE keeps_input WHEN 1 THEN input END
FROM unnest(
    $2::text[], $3::text[], $4::float8[], $5::integer[], $6::text[], $7::text[], $8::text[],
    $9::text[], $10::float8[], $11::integer[], $12::integer[], $13::text[], $14::text[]
) AS given (
    id, state, expires_at, status, body, headers, error, error_type, inference_s, num_tokens,
    truncated, files, lines
)
WHERE request.id = given.id;

-- name: requeue
UPDATE request SET
    state = 'queued', owner = NULL, lease_until = NULL, not_before = given.not_before,
    attempts = given.attempts, token = given.token, logs = logs || lines
FROM unnest($1::text[], $2::float8[], $3::integer[], $4::bigint[], $5::text[])
    AS given (id, not_before, attempts, token, lines)
WHERE request.id = given.id;

-- name: ask_to_cancel
UPDATE request SET cancel_asked = 1, logs = logs || $2 WHERE id = $1;

-- name: insert_webhooks
INSERT INTO webhook (id, key_id, url, body, next_at, created_at, trace)
SELECT * FROM unnest(
    $1::text[], $2::text[], $3::text[], $4::text[], $5::float8[], $6::float8[], $7::text[]
)
ON CONFLICT (id) DO NOTHING;

-- name: forget
WITH over AS MATERIALIZED (
    SELECT id FROM request WHERE expires_at <= (SELECT store_now()) AND NOT EXISTS (
        SELECT FROM webhook WHERE webhook.id = request.id AND state = 'pending'
    )
    ORDER BY expires_at LIMIT $1 FOR UPDATE SKIP LOCKED
)
DELETE FROM request USING over WHERE request.id = over.id RETURNING files;

-- name: forget_webhooks
WITH over AS MATERIALIZED (
    SELECT id FROM webhook
    WHERE state <> 'pending' AND created_at + $1::float8 <= (SELECT store_now())
    ORDER BY created_at LIMIT $2 FOR UPDATE SKIP LOCKED
)
DELETE FROM webhook USING over WHERE webhook.id = over.id;

-- name: forget_keys
DELETE FROM api_key WHERE revoked_at + $1::float8 <= store_now();

-- name: forget_slots
DELETE FROM slot WHERE until <= store_now();

-- name: forget_rates
DELETE FROM pace WHERE due <= store_now();

-- ------------------------------------------------------------------------------- reading

-- name: status
SELECT
    id, path, state, logs, headers, error, error_type, inference_s, num_tokens, truncated,
    CASE WHEN state = 'queued' THEN (
    SELECT count(*) FROM (
        SELECT FROM request AS other
        WHERE other.state = 'queued' AND (other.priority, other.seq) < (one.priority, one.seq)
        ORDER BY other.priority, other.seq LIMIT $3
    ) AS capped
) END AS position
FROM request AS one WHERE id = $1 AND key_id = $2;

-- name: position
SELECT (
    SELECT count(*) FROM (
        SELECT FROM request AS other
        WHERE other.state = 'queued' AND (other.priority, other.seq) < (one.priority, one.seq)
        ORDER BY other.priority, other.seq LIMIT $2
    ) AS capped
)
FROM request AS one WHERE id = $1 AND state = 'queued';

-- name: result
SELECT state, status, body, headers FROM request WHERE id = $1 AND key_id = $2;

-- name: backlog_by_key
-- As first_by_key, but no more than counted: the outer limit ends the walk.
WITH RECURSIVE holder AS (
    (SELECT key_id FROM request WHERE state = 'queued' ORDER BY key_id LIMIT 1)
    UNION ALL
    SELECT (
        SELECT key_id FROM request WHERE state = 'queued' AND request.key_id > holder.key_id
        ORDER BY key_id LIMIT 1
    ) FROM holder WHERE key_id IS NOT NULL
),
waiting AS MATERIALIZED (
    SELECT key_id, (
        SELECT concurrency
            - (SELECT count(*) FROM request WHERE state = 'running' AND request.key_id = api_key.id)
            - (SELECT count(*) FROM slot WHERE slot.key_id = api_key.id AND until > $1)
        FROM api_key WHERE api_key.id = holder.key_id AND concurrency IS NOT NULL
    ) AS free
    FROM holder WHERE key_id IS NOT NULL
)
SELECT count(*) AS queued, coalesce($1::float8 - min(created_at), 0) AS oldest_s
FROM (
    SELECT created_at FROM waiting
    CROSS JOIN LATERAL (
        SELECT created_at FROM request
        WHERE state = 'queued' AND request.key_id = waiting.key_id AND not_before <= $1
            AND (attempts > 0 OR start_by IS NULL OR start_by > $1)
        ORDER BY request.key_id, priority, seq LIMIT greatest(0, least($2, free))
    ) AS own
    LIMIT $2
) AS claimable;

-- ------------------------------------------------------------------------------ webhooks

-- name: claim_webhooks
WITH due AS MATERIALIZED (
    SELECT id, next_at AS was_due FROM webhook
    WHERE state = 'pending' AND next_at <= (SELECT store_now())
    ORDER BY next_at, seq LIMIT $1 FOR UPDATE SKIP LOCKED
),
taken AS (
    UPDATE webhook SET
        attempts = attempts + 1, token = token + 1, next_at = (SELECT store_now()) + $2::float8
    FROM due WHERE webhook.id = due.id RETURNING webhook.*, was_due
)
SELECT * FROM taken ORDER BY was_due, seq;

-- name: record_delivery
UPDATE webhook SET
    state = $3, last_status = $4, last_error = $5,
    next_at = coalesce(store_now() + $6::float8, next_at)
WHERE id = $1 AND token = $2 AND state = 'pending' RETURNING id;

-- name: webhooks
SELECT * FROM webhook ORDER BY seq DESC LIMIT $1;

-- name: webhooks_in
SELECT * FROM webhook WHERE state = $2 ORDER BY seq DESC LIMIT $1;

-- name: retry_webhook
-- A new token, so that a delivery under way cannot record its result.
UPDATE webhook SET state = 'pending', attempts = 0, token = token + 1, next_at = store_now()
WHERE id = $1 AND state <> 'pending' RETURNING id;

-- name: signing_keys
SELECT kid, x, state, changed_at FROM signing_key
ORDER BY array_position(ARRAY['active', 'next', 'retired'], state), changed_at DESC, seq;

-- name: put_signing_keys
INSERT INTO signing_key (kid, x, state, changed_at)
SELECT kid, x, state, (SELECT store_now())
FROM unnest($1::text[], $2::text[], $3::text[]) AS given (kid, x, state)
ON CONFLICT (kid) DO UPDATE SET
    x = excluded.x, state = excluded.state,
    changed_at = CASE excluded.state WHEN signing_key.state THEN signing_key.changed_at
        ELSE excluded.changed_at END;

-- ---------------------------------------------------------------------------------- keys

-- name: add_key
INSERT INTO api_key (id, hash, name, concurrency, rate, created_at, expires_at, revoked_at, adapter)
VALUES ($1, $2, $3, $4, $5, store_now(), $6, $7, $8);

-- name: key_by_hash
SELECT * FROM api_key
WHERE hash = $1 AND revoked_at IS NULL AND (expires_at IS NULL OR expires_at > store_now());

-- name: keys
SELECT * FROM api_key ORDER BY seq;

-- name: revoke_key
UPDATE api_key SET revoked_at = store_now() WHERE id = $1 AND revoked_at IS NULL RETURNING id;

-- name: replace_key_hash
UPDATE api_key SET hash = $2 WHERE id = $1 AND revoked_at IS NULL RETURNING id;

-- name: rate_due
-- The row is there and locked from now on.
INSERT INTO pace (key_id, due) VALUES ($1, 0) ON CONFLICT (key_id) DO UPDATE SET due = pace.due
RETURNING due, store_now() AS now, pg_current_xact_id()::text AS transaction;

-- name: put_rate_due
UPDATE pace SET due = $2 WHERE key_id = $1;

-- name: bound
SELECT concurrency FROM api_key WHERE id = $1;

-- name: busy
SELECT (SELECT count(*) FROM request WHERE state = 'running' AND key_id = $1)
    + (SELECT count(*) FROM slot WHERE key_id = $1 AND until > store_now());

-- name: acquire_slot
INSERT INTO slot (run_id, key_id, until) VALUES ($1, $2, store_now() + $3::float8)
ON CONFLICT (run_id) DO UPDATE SET key_id = excluded.key_id, until = excluded.until;

-- name: release_slot
DELETE FROM slot WHERE run_id = $1;

-- name: add_usage
INSERT INTO usage (key_id, day, path, requests, images, model_s)
SELECT key_id, day, path, sum(requests), sum(images), sum(model_s)
FROM unnest($1::text[], $2::text[], $3::text[], $4::bigint[], $5::bigint[], $6::float8[])
    AS given (key_id, day, path, requests, images, model_s)
GROUP BY day, key_id, path ORDER BY day, key_id, path
ON CONFLICT (day, key_id, path) DO UPDATE SET
    requests = usage.requests + excluded.requests, images = usage.images + excluded.images,
    model_s = usage.model_s + excluded.model_s
RETURNING pg_current_xact_id()::text;

-- name: usage
SELECT key_id, day, path, requests, images, model_s FROM usage
WHERE day >= $1 AND ($2::text IS NULL OR key_id = $2) ORDER BY day, key_id, path;

-- ------------------------------------------------------------------------------- numbers

-- name: stats
-- What is counted is walked along an index, up to the cap.
SELECT
    (SELECT count(*) FROM (SELECT 1 FROM request WHERE state = 'queued' LIMIT $1::bigint) AS few)
        AS queued,
    (SELECT count(*) FROM (SELECT 1 FROM request WHERE state = 'running' LIMIT $1::bigint) AS few)
        AS running,
    (SELECT count(*) FROM (SELECT 1 FROM webhook WHERE state = 'pending' LIMIT $1::bigint) AS few)
        AS pending,
    (SELECT count(*) FROM (SELECT 1 FROM webhook WHERE state = 'delivered' LIMIT $1::bigint) AS few)
        AS delivered,
    (SELECT count(*) FROM (SELECT 1 FROM webhook WHERE state = 'dead' LIMIT $1::bigint) AS few)
        AS dead,
    greatest(0.0, store_now() - (SELECT min(next_at) FROM webhook WHERE state = 'pending'))::float8
        AS overdue_s,
    pg_total_relation_size('request') + pg_total_relation_size('webhook')
        + pg_total_relation_size('usage') AS size_bytes;

-- name: busiest_keys
SELECT key_id, count(*) AS running
FROM (
    SELECT key_id FROM request WHERE state = 'running'
    UNION ALL
    SELECT key_id FROM slot WHERE until > store_now()
) AS held
GROUP BY key_id ORDER BY running DESC, key_id LIMIT $1::bigint;
