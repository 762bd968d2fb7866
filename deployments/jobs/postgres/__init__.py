"""The store in PostgreSQL, which any number of processes use at the same time.

store ──▶ submitting  claiming  closing  reading  deliveries  keys  copying   what it can do
              │           │        │
              │           │     outcomes    ends, and returns to the queue, as they are written
              ▼           │        │
          gathering ◀─────┼────────┘        group commit
                          ▼
                      database ──▶ schema   connections; the SQL is in `sql/postgres`
"""

from deployments.jobs.postgres.store import PostgresStore

__all__ = ["PostgresStore"]
