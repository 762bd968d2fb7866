"""The store in PostgreSQL, which any number of processes use at the same time.

Each part of the store has a module of its own; the SQL is in `sql/postgres`.
"""

from deployments.queueing.postgres.store import PostgresStore

__all__ = ["PostgresStore"]
