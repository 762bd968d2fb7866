"""Webhooks that wait for their delivery, and the public keys that sign them."""

from collections.abc import Sequence

from asyncpg import Record

from deployments.jobs.columns import COLUMNS
from deployments.jobs.postgres.part import Part
from deployments.webhooks.webhook import DeliveryResult, PublicKey, Webhook, WebhookState


class Deliveries(Part):
    """Leases on webhooks."""

    async def claim_webhooks(self, limit: int, lease_s: float) -> list[Webhook]:
        """Take deliveries that are due."""
        rows = await self._database.rows("claim_webhooks", limit, lease_s)
        return [webhook_in(row) for row in rows]

    async def record_delivery(self, webhook_id: str, token: int, result: DeliveryResult) -> bool:
        """Note what came of a delivery."""
        values = result.state, result.status, result.error, result.retry_s
        recorded = await self._database.value("record_delivery", webhook_id, token, *values)
        return recorded is not None

    async def webhooks(self, state: WebhookState | None = None, limit: int = 100) -> list[Webhook]:
        """The latest webhooks."""
        if state is None:
            rows = await self._database.rows("webhooks", limit)
        else:
            rows = await self._database.rows("webhooks_in", limit, state)
        return [webhook_in(row) for row in rows]

    async def retry_webhook(self, webhook_id: str) -> bool:
        """Make a webhook due again."""
        return await self._database.value("retry_webhook", webhook_id) is not None

    async def signing_keys(self) -> list[PublicKey]:
        """The public halves of all webhook keys."""
        return [PublicKey(**row) for row in await self._database.rows("signing_keys")]

    async def put_signing_keys(self, keys: Sequence[PublicKey]) -> None:
        """Add or change keys."""
        last = list({key.kid: key for key in keys}.values())
        kids, xs = [key.kid for key in last], [key.x for key in last]
        await self._database.rows("put_signing_keys", kids, xs, [key.state for key in last])


def webhook_in(row: Record) -> Webhook:
    """The webhook in `row`."""
    values = {column: row[column] for column in COLUMNS["webhook"]}
    return Webhook(**values | {"state": WebhookState(row["state"])})
