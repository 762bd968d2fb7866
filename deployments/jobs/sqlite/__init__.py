"""The store in one SQLite file, served by one process.

store ──▶ writer   one thread, which commits for all that wait
  │         │
  └──▶ readers     threads that never wait for a commit
            │
          tables   what is done on a connection; the SQL is in `sql/sqlite`
            │
           file    how the file is locked, opened and brought up to date

beside ─▶ tables   how other processes of the same machine look at a request
"""

from deployments.jobs.sqlite.store import SqliteStore

__all__ = ["SqliteStore"]
