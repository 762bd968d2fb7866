-- Columns are those of rows.py, in every store; what goes beyond them says why it does.
--
-- request: id key_id path input base_url priority start_by max_attempts webhook_url
--     idempotency_key fingerprint keeps_input files_ttl_s state attempts token owner lease_until
--     not_before cancel_asked created_at ended_at expires_at status body headers error error_type
--     inference_s files logs
-- webhook: id key_id url body state attempts token next_at created_at last_status last_error
-- api_key: id hash name concurrency rate created_at expires_at revoked_at
-- usage: key_id day path requests images model_s
-- signing_key: kid x state changed_at
-- secret: name value
--
-- Times are seconds since the epoch. `input` stands in a table of its own: an update writes a
-- whole row anew, and a row changes with every heartbeat while its input may hold megabytes.

CREATE TABLE request (
    seq INTEGER PRIMARY KEY, -- the order of arrival
    id TEXT NOT NULL UNIQUE,
    key_id TEXT NOT NULL,
    path TEXT NOT NULL,
    base_url TEXT NOT NULL,
    priority INTEGER NOT NULL,
    start_by REAL,
    max_attempts INTEGER NOT NULL,
    webhook_url TEXT,
    idempotency_key TEXT,
    fingerprint TEXT,
    keeps_input INTEGER NOT NULL,
    files_ttl_s REAL,
    state TEXT NOT NULL DEFAULT 'queued',
    attempts INTEGER NOT NULL DEFAULT 0,
    token INTEGER NOT NULL DEFAULT 0,
    owner TEXT,
    lease_until REAL,
    not_before REAL NOT NULL DEFAULT 0,
    cancel_asked INTEGER NOT NULL DEFAULT 0,
    created_at REAL NOT NULL,
    ended_at REAL,
    expires_at REAL,
    status INTEGER NOT NULL DEFAULT 0,
    error TEXT,
    error_type TEXT,
    inference_s REAL,
    logs TEXT NOT NULL DEFAULT '',
    headers TEXT NOT NULL DEFAULT '{}',
    files TEXT NOT NULL DEFAULT '[]',
    body TEXT NOT NULL DEFAULT '' -- last, so that a status need not read past it
) STRICT;

CREATE INDEX queued_in_order ON request (priority, seq) WHERE state = 'queued';
CREATE INDEX queued_of_key ON request (key_id, priority, seq) WHERE state = 'queued';
CREATE INDEX queued_until ON request (start_by) WHERE state = 'queued' AND start_by IS NOT NULL;
CREATE INDEX running_of_key ON request (key_id) WHERE state = 'running';
CREATE INDEX running_until ON request (lease_until) WHERE state = 'running';
CREATE INDEX ended_until ON request (expires_at) WHERE expires_at IS NOT NULL;
CREATE UNIQUE INDEX idempotent ON request (key_id, idempotency_key)
    WHERE idempotency_key IS NOT NULL;

CREATE TABLE input (
    seq INTEGER PRIMARY KEY, -- the request's
    json TEXT NOT NULL
) STRICT;

-- How many requests are queued, so that a submit need not count them.
CREATE TABLE depth (
    priority INTEGER PRIMARY KEY,
    queued INTEGER NOT NULL
) STRICT;

CREATE TRIGGER depth_on_insert AFTER INSERT ON request WHEN new.state = 'queued'
BEGIN
    INSERT INTO depth (priority, queued) VALUES (new.priority, 1)
    ON CONFLICT (priority) DO UPDATE SET queued = queued + 1;
END;

CREATE TRIGGER depth_on_update AFTER UPDATE OF state ON request
WHEN (new.state = 'queued') <> (old.state = 'queued')
BEGIN
    INSERT INTO depth (priority, queued) VALUES (new.priority, 1)
    ON CONFLICT (priority) DO UPDATE SET queued = queued + iif(new.state = 'queued', 1, -1);
END;

CREATE TRIGGER depth_on_delete AFTER DELETE ON request WHEN old.state = 'queued'
BEGIN
    UPDATE depth SET queued = queued - 1 WHERE priority = old.priority;
END;

CREATE TABLE webhook (
    seq INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE, -- the request's
    key_id TEXT NOT NULL,
    url TEXT NOT NULL,
    body TEXT NOT NULL,
    state TEXT NOT NULL,
    attempts INTEGER NOT NULL,
    token INTEGER NOT NULL,
    next_at REAL NOT NULL,
    created_at REAL NOT NULL,
    last_status INTEGER,
    last_error TEXT
) STRICT;

CREATE INDEX pending_until ON webhook (next_at) WHERE state = 'pending';
CREATE INDEX webhook_in_state ON webhook (state, seq);

CREATE TABLE api_key (
    seq INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    hash TEXT NOT NULL UNIQUE,
    name TEXT NOT NULL,
    concurrency INTEGER,
    rate REAL,
    created_at REAL NOT NULL,
    expires_at REAL,
    revoked_at REAL
) STRICT;

CREATE TABLE usage (
    key_id TEXT NOT NULL,
    day TEXT NOT NULL,
    path TEXT NOT NULL,
    requests INTEGER NOT NULL,
    images INTEGER NOT NULL,
    model_s REAL NOT NULL,
    UNIQUE (day, key_id, path)
) STRICT;

CREATE TABLE signing_key (
    kid TEXT NOT NULL UNIQUE,
    x TEXT NOT NULL,
    state TEXT NOT NULL,
    changed_at REAL NOT NULL
) STRICT;

CREATE TABLE secret (
    name TEXT NOT NULL UNIQUE,
    value TEXT NOT NULL
) STRICT;

-- The places of synchronous runs, and how far keys with a rate are ahead: not worth a copy.
CREATE TABLE slot (
    run_id TEXT PRIMARY KEY,
    key_id TEXT NOT NULL,
    until REAL NOT NULL
) STRICT, WITHOUT ROWID;

CREATE INDEX slot_of_key ON slot (key_id, until);

CREATE TABLE pace (
    key_id TEXT PRIMARY KEY,
    due REAL NOT NULL
) STRICT, WITHOUT ROWID;
