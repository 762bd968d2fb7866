-- Times are seconds since the epoch. This is the only clock: tests replace it to let time pass.
CREATE FUNCTION store_now() RETURNS double precision LANGUAGE sql VOLATILE AS
    $$ SELECT extract(epoch FROM clock_timestamp())::double precision $$;

CREATE TABLE request (
    seq bigint GENERATED ALWAYS AS IDENTITY, -- the order of arrival
    id text COLLATE "C" PRIMARY KEY,
    key_id text COLLATE "C" NOT NULL,
    path text NOT NULL,
    input text,
    base_url text NOT NULL DEFAULT '',
    priority integer NOT NULL DEFAULT 0,
    start_by double precision,
    max_attempts integer NOT NULL,
    webhook_url text,
    idempotency_key text COLLATE "C",
    fingerprint text,
    keeps_input integer NOT NULL DEFAULT 1,
    files_ttl_s double precision,
    state text COLLATE "C" NOT NULL DEFAULT 'queued'
        CHECK (state IN ('queued', 'running', 'done', 'error', 'cancelled')),
    attempts integer NOT NULL DEFAULT 0,
    token bigint NOT NULL DEFAULT 0,
    owner text,
    lease_until double precision,
    not_before double precision NOT NULL DEFAULT 0,
    cancel_asked integer NOT NULL DEFAULT 0,
    created_at double precision NOT NULL,
    ended_at double precision,
    expires_at double precision,
    status integer NOT NULL DEFAULT 0,
    body text NOT NULL DEFAULT '',
    headers text NOT NULL DEFAULT '{}',
    error text,
    error_type text,
    inference_s double precision,
    files text NOT NULL DEFAULT '[]',
    logs text NOT NULL DEFAULT ''
) WITH (
    -- Every request is written three times and then deleted: sweep early, at full speed, by rows
    -- and not by the share of a table whose size changes a thousandfold within the hour.
    fillfactor = 80,
    autovacuum_vacuum_scale_factor = 0,
    autovacuum_vacuum_threshold = 5000,
    autovacuum_vacuum_insert_scale_factor = 0,
    autovacuum_vacuum_insert_threshold = 20000,
    autovacuum_vacuum_cost_delay = 0,
    toast.autovacuum_vacuum_scale_factor = 0,
    toast.autovacuum_vacuum_threshold = 5000,
    toast.autovacuum_vacuum_cost_delay = 0
);

-- No index holds lease_until: so a heartbeat changes no index (a heap-only tuple).
CREATE UNIQUE INDEX request_idempotency ON request (key_id, idempotency_key)
    WHERE idempotency_key IS NOT NULL;
CREATE INDEX request_queued ON request (priority, seq) WHERE state = 'queued';
CREATE INDEX request_queued_by_key ON request (key_id, priority, seq) WHERE state = 'queued';
CREATE INDEX request_to_start ON request (start_by)
    WHERE state = 'queued' AND attempts = 0 AND start_by IS NOT NULL;
CREATE INDEX request_running ON request (key_id) WHERE state = 'running';
CREATE INDEX request_expiring ON request (expires_at) WHERE expires_at IS NOT NULL;

CREATE TABLE webhook (
    seq bigint GENERATED ALWAYS AS IDENTITY UNIQUE,
    id text COLLATE "C" PRIMARY KEY, -- the request's
    key_id text COLLATE "C" NOT NULL,
    url text NOT NULL,
    body text NOT NULL,
    state text COLLATE "C" NOT NULL DEFAULT 'pending'
        CHECK (state IN ('pending', 'delivered', 'dead')),
    attempts integer NOT NULL DEFAULT 0,
    token bigint NOT NULL DEFAULT 0,
    next_at double precision NOT NULL,
    created_at double precision NOT NULL,
    last_status integer,
    last_error text
);
CREATE INDEX webhook_pending ON webhook (next_at) WHERE state = 'pending';
CREATE INDEX webhook_by_state ON webhook (state, seq);
CREATE INDEX webhook_settled ON webhook (created_at) WHERE state <> 'pending';

CREATE TABLE api_key (
    seq bigint GENERATED ALWAYS AS IDENTITY,
    id text COLLATE "C" PRIMARY KEY,
    hash text COLLATE "C" NOT NULL CONSTRAINT api_key_hash UNIQUE,
    name text NOT NULL DEFAULT '',
    concurrency integer,
    rate double precision,
    created_at double precision NOT NULL,
    expires_at double precision,
    revoked_at double precision
);

CREATE TABLE usage (
    seq bigint GENERATED ALWAYS AS IDENTITY,
    key_id text COLLATE "C" NOT NULL,
    day text COLLATE "C" NOT NULL,
    path text COLLATE "C" NOT NULL,
    requests bigint NOT NULL,
    images bigint NOT NULL,
    model_s double precision NOT NULL,
    PRIMARY KEY (day, key_id, path)
) WITH (fillfactor = 50); -- a few rows, each changed all the time

CREATE TABLE signing_key (
    seq bigint GENERATED ALWAYS AS IDENTITY,
    kid text COLLATE "C" PRIMARY KEY,
    x text NOT NULL,
    state text COLLATE "C" NOT NULL CHECK (state IN ('next', 'active', 'retired')),
    changed_at double precision NOT NULL
);

CREATE TABLE secret (
    seq bigint GENERATED ALWAYS AS IDENTITY,
    name text COLLATE "C" PRIMARY KEY,
    value text NOT NULL -- hex
);

-- The places that synchronous runs hold of their key's concurrency.
CREATE TABLE slot (
    run_id text COLLATE "C" PRIMARY KEY,
    key_id text COLLATE "C" NOT NULL,
    until double precision NOT NULL
);
CREATE INDEX slot_by_key ON slot (key_id);

-- When each key with a rate would have used up its pace.
CREATE TABLE pace (
    key_id text COLLATE "C" PRIMARY KEY,
    due double precision NOT NULL
) WITH (fillfactor = 50);
