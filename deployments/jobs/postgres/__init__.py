"""The store in PostgreSQL, which any number of processes use at the same time.

store ──▶ submits  leases  webhooks  keys   what it can do
              │       │
              │       │   (`coalescer`: the submits of a moment are one transaction)
              ▼       ▼
             database ──▶ migrate           connections; the SQL is in `sql/postgres`
"""

from deployments.jobs.postgres.store import PostgresStore

__all__ = ["PostgresStore"]
