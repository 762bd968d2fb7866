"""The columns of each table, the same in every store, so that rows can be copied between them.

Values are text, numbers or None; flags are 0 or 1, lists and mappings JSON, secrets hex.
The place of a request in the queue is that of its row, so it has no column here.
"""

COLUMNS: dict[str, tuple[str, ...]] = {
    "request": (
        "id",
        "key_id",
        "path",
        "input",  # None once it is forgotten
        "base_url",
        "priority",
        "start_by",  # when the time to start is over, None without a bound
        "max_attempts",
        "webhook_url",
        "idempotency_key",
        "fingerprint",  # of path and input, None without an idempotency key
        "keeps_input",  # 0 or 1
        "files_ttl_s",
        "state",
        "attempts",
        "token",  # of the latest lease; 0 before the first
        "owner",  # whoever holds the lease
        "lease_until",
        "not_before",  # end of a delay before the next attempt
        "cancel_asked",  # 0 or 1
        "created_at",
        "ended_at",
        "expires_at",
        "status",  # of the response; 0 while there is none
        "body",
        "headers",  # JSON
        "error",
        "error_type",
        "inference_s",
        "files",  # JSON
        "logs",  # one JSON object a line
        "trace",  # W3C's traceparent; empty for none
    ),
    "webhook": (
        "id",
        "key_id",
        "url",
        "body",
        "state",
        "attempts",
        "token",
        "next_at",
        "created_at",
        "last_status",
        "last_error",
        "trace",
    ),
    "api_key": (
        "id",
        "hash",
        "name",
        "concurrency",
        "rate",
        "created_at",
        "expires_at",
        "revoked_at",
    ),
    "usage": ("key_id", "day", "path", "requests", "images", "model_s"),
    "signing_key": ("kid", "x", "state", "changed_at"),
    "secret": ("name", "value"),
}
