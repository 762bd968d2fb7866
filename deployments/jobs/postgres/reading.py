"""What clients ask of their requests, and operators of all."""

import json

from deployments.jobs import logs
from deployments.jobs.job import JobState, JobStatus, StoredResponse
from deployments.jobs.postgres.part import Part
from deployments.jobs.store import MAX_COUNTED, MAX_KEYS, POSITION_CAP, StoreStats
from deployments.webhooks.webhook import WebhookState


class Reading(Part):
    """Questions; each is one statement, but for the stats."""

    async def status(self, key_id: str, request_id: str) -> JobStatus | None:
        """How a request stands."""
        row = await self._database.row("status", request_id, key_id, POSITION_CAP)
        if row is None:
            return None
        return JobStatus(
            id=request_id,
            path=row["path"],
            state=JobState(row["state"]),
            position=row["position"],
            logs=logs.decode(row["logs"]),
            error=row["error"],
            error_type=row["error_type"],
            inference_s=row["inference_s"],
        )

    async def result(self, key_id: str, request_id: str) -> StoredResponse | None:
        """The response of a request."""
        row = await self._database.row("result", request_id, key_id)
        if row is None:
            return None
        headers = json.loads(row["headers"])
        return StoredResponse(JobState(row["state"]), row["status"], row["body"], headers)

    async def position(self, request_id: str) -> int | None:
        """How many are ahead."""
        ahead: int | None = await self._database.value("position", request_id, POSITION_CAP)
        return ahead

    async def stats(self, cap: int = MAX_COUNTED, max_keys: int = MAX_KEYS) -> StoreStats:
        """What there is, in numbers."""
        counted = await self._database.row("stats", cap)
        assert counted
        busy = await self._database.rows("busy_keys", max_keys)
        return StoreStats(
            queued=counted["queued"],
            running=counted["running"],
            keys={row["key_id"]: row["running"] for row in busy},
            webhooks={state: counted[state] for state in WebhookState},
            overdue_s=counted["overdue_s"],
            size_bytes=counted["size_bytes"],
        )
