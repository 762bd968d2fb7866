"""The store in one SQLite file.

owner ──▶ store ──▶ group_commit   one thread, which commits for all callers that wait
            │
            ├─────▶ readers        threads that never wait for a commit
            │
          tables                   what is done on a connection; the SQL is in `sql/sqlite`
            │
           file                    its lock, its schema, and what makes a file unusable

`owner` serves the store of one process to all others (with Ray); they read the file themselves.
"""

from deployments.jobs.sqlite.store import SqliteStore

__all__ = ["SqliteStore"]
