"""Every store there is, for the webhooks that are kept in it."""

from tests.jobs.conftest import bench, benches, kind, postgres, url

__all__ = ["bench", "benches", "kind", "postgres", "url"]
